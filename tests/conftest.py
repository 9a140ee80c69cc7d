"""What every room's tests share: one real RabbitMQ node of our own, and identities on it.

There is no imitation of the broker and no skipping: without RabbitMQ the tests that need it fail and say how to install it.
"""

import time
from collections.abc import Callable, Iterator

import pika
import pytest

from broker.local_node import LocalNode, NodeInfo
from broker.settings import BrokerSettings
from broker.topology import FEDERATION, declare

WAIT_SECONDS = 30.0


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = WAIT_SECONDS) -> None:
    """Wait for a condition with a deadline; fail with `what` when it does not come true."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"within {timeout_seconds:g} s it did not happen that {what}")
        time.sleep(0.01)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeInfo]:
    """A private RabbitMQ node with the topology declared, for the whole run."""
    local = LocalNode(tmp_path_factory.mktemp("broker"))
    info = local.start()
    try:
        with pika.BlockingConnection(pika.URLParameters(info.amqp_url)) as amqp:
            declare(amqp.channel(), FEDERATION)
        yield info
    finally:
        local.stop()


@pytest.fixture
def server_settings(node: NodeInfo) -> BrokerSettings:
    """The settings of a server-side process; the federation's queues are empty."""
    settings = BrokerSettings.from_url(node.amqp_url)
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        channel = amqp.channel()
        for queue in FEDERATION.queues:
            channel.queue_purge(queue.name)
    return settings
