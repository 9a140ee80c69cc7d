"""The shared node as its operator sees it, and as those reach it whom he enrols."""

import re
from collections.abc import Iterator

import pytest

from broker.connection import Connection
from broker.errors import BrokerUnreachable
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from tests.conftest import wait_until


@pytest.fixture
def management(node: NodeInfo) -> Iterator[Management]:
    with Management(node.management_url, node.user, node.password) as management:
        yield management


@pytest.fixture
def address(node: NodeInfo) -> BrokerSettings:
    return BrokerSettings.from_url(node.amqp_url)


def wait_refused(connection: Connection, pattern: str) -> str:
    """Wait until a connection that cannot be made says why in words that `pattern` finds; returns all it says."""
    said = [""]

    def is_said() -> bool:
        with pytest.raises(BrokerUnreachable) as refusal:
            connection.wait_connected(0)
        said[0] = str(refusal.value)
        return re.search(pattern, said[0]) is not None

    wait_until(is_said, f"the connection fails with {pattern!r}")
    return said[0]
