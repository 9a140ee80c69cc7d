"""Letters that the disk has no room for, or that come while somebody else keeps the spool; over a real broker."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from broker import identities
from broker.connection import Connection
from broker.contract.heads import MIN_CHUNK_BYTES
from broker.contract.receipts import ReceiptV1
from broker.management import Management
from broker.names import inbox
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from edge_agent.errors import SpoolBusy
from edge_agent.heads.arrivals import Arrivals
from edge_agent.heads.judge import Judge
from edge_agent.letterbox import PREFETCH, Letterbox
from edge_agent.status import receipt_count
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle.bundle import read_bundle
from export.bundle.keys import PrivateKey
from monitoring.metrics import BrokerMetrics
from tests.conftest import wait_until
from tests.edge_agent.conftest import Device
from tests.edge_agent.heads.bundles import signed, with_ballast, write
from tests.edge_agent.heads.deliveries import send
from tests.edge_agent.server import Server
from tests.edge_agent.test_agent import queued

KEY = PrivateKey.generate()

Open = Callable[[], contextlib.AbstractContextManager[Letterbox]]


@pytest.fixture
def owner(node: NodeInfo, device: Device) -> Iterator[BrokerSettings]:
    with Management(node.management_url, node.user, node.password) as management:
        yield identities.owner(management, device.client, address=BrokerSettings.from_url(node.amqp_url))


@pytest.fixture
def head(head_bundle: Path, tmp_path: Path) -> Path:
    """A signed head of a few pieces, all of which the broker lends at once."""
    content = signed(with_ballast(read_bundle(head_bundle), 3 * MIN_CHUNK_BYTES), KEY, counter=1, version="1")
    assert 3 < len(content) / MIN_CHUNK_BYTES < PREFETCH - 1
    return write(tmp_path / "head.bundle", content)


@pytest.fixture
def letterbox(device: Device, spool: Spool) -> Open:
    """The device's letterbox on a link of its own; made again, it is that of the next start."""

    @contextlib.contextmanager
    def make() -> Iterator[Letterbox]:
        connection = Connection(
            device.broker, name="test-letters", metrics=BrokerMetrics(CollectorRegistry())
        )
        consumer = connection.consumer(inbox(device.user), prefetch=PREFETCH)
        with connection:
            arrivals = Arrivals(Judge(device.client, (KEY.public.text,)), 2**28)
            yield Letterbox(spool, consumer, arrivals, device.user)

    return make


def fill(spool: Spool) -> None:
    """Leave room for small rows, and none for a piece of a head."""
    spool.rows(f"PRAGMA max_page_count = {spool.rows('PRAGMA page_count')[0][0] + 4}")


def make_room(spool: Spool) -> None:
    spool.rows("PRAGMA max_page_count = 1000000")


def pieces(spool: Spool) -> int:
    """How many whole ones there are; the last of a head is smaller, and may find room where they do not."""
    sql = "SELECT count(*) FROM head_chunks WHERE length(content) = ?"
    return int(spool.rows(sql, (MIN_CHUNK_BYTES,))[0][0])


def test_a_head_without_room_waits_and_what_comes_behind_it_is_taken(
    node: NodeInfo,
    device: Device,
    owner: BrokerSettings,
    server: Server,
    spool: Spool,
    head: Path,
    letterbox: Open,
) -> None:
    with letterbox() as letters:
        send(owner, device.user, head)
        wait_until(lambda: letters.take(0.1), "the announcement is taken")
        fill(spool)
        server.tell(device.user, ReceiptV1(batch_id="a" * 64, samples=7, duplicate=False), "receipt")

        wait_until(lambda: letters.take(0.1) and receipt_count(spool) == 1, "the receipt is taken")
        letters.take_set_by()
        assert pieces(spool) == 0

        make_room(spool)
        letters.take_set_by()
        assert pieces(spool) == head.stat().st_size // MIN_CHUNK_BYTES
    assert queued(node, inbox(device.user)) == [], "all of it was acknowledged"


def test_a_head_that_an_agent_had_no_room_for_comes_again_to_the_next(
    device: Device, owner: BrokerSettings, spool: Spool, head: Path, letterbox: Open
) -> None:
    with letterbox() as letters:
        send(owner, device.user, head)
        wait_until(lambda: letters.take(0.1), "the announcement is taken")
        fill(spool)
        wait_until(lambda: not letters.take(0.5), "everything else was tried")
        assert pieces(spool) == 0
    make_room(spool)

    with letterbox() as letters:
        wait_until(
            lambda: letters.take(0.1) and pieces(spool) == head.stat().st_size // MIN_CHUNK_BYTES,
            "all pieces are there",
        )


def test_a_letter_that_comes_while_another_keeps_the_spool_is_taken_next(
    node: NodeInfo,
    device: Device,
    owner: BrokerSettings,
    state: StateDirectory,
    spool: Spool,
    head: Path,
    letterbox: Open,
) -> None:
    spool.rows("PRAGMA busy_timeout = 1")
    with letterbox() as letters:
        with Spool(state.spool) as other, other.transaction():
            send(owner, device.user, head)
            with pytest.raises(SpoolBusy):
                letters.take(20)
            with pytest.raises(SpoolBusy):
                letters.take(20)

        wait_until(
            lambda: letters.take(0.1) and pieces(spool) == head.stat().st_size // MIN_CHUNK_BYTES,
            "all pieces are there",
        )
        wait_until(lambda: not letters.take(0.5), "the last is taken, too")
    assert queued(node, inbox(device.user)) == [], "all of it was acknowledged"
