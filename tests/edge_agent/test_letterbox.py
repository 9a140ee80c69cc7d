"""Letters that the disk has no room for, or that come while somebody else keeps the spool; over a real broker."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
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
from edge_agent.heads.arrivals import Arrivals, incoming, missing
from edge_agent.heads.judge import Judge
from edge_agent.letterbox import MAX_SET_BY, PREFETCH, Letterbox
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
from tests.link import Link

KEY = PrivateKey.generate()

Open = Callable[..., contextlib.AbstractContextManager[Letterbox]]


@pytest.fixture
def owner(node: NodeInfo, device: Device) -> Iterator[BrokerSettings]:
    with Management(node.management_url, node.user, node.password) as management:
        yield identities.owner(management, device.client, address=BrokerSettings.from_url(node.amqp_url))


@pytest.fixture
def head(head_bundle: Path, tmp_path: Path) -> Path:
    """A signed head of a few pieces, all of which may wait for room."""
    return of_pieces(head_bundle, 0, tmp_path / "head.bundle", least=2, most=MAX_SET_BY)


@pytest.fixture
def long_head(head_bundle: Path, tmp_path: Path) -> Path:
    """A signed head of more pieces than the broker lends at once."""
    return of_pieces(head_bundle, 12, tmp_path / "long.bundle", least=PREFETCH + 1, most=20)


def of_pieces(head: Path, ballast: int, path: Path, *, least: int, most: int) -> Path:
    """The same head, signed, with so many pieces of ballast; all its pieces together are a number within bounds."""
    content = signed(with_ballast(read_bundle(head), ballast * MIN_CHUNK_BYTES), KEY, counter=1, version="1")
    assert least <= -(-len(content) // MIN_CHUNK_BYTES) <= most
    return write(path, content)


@pytest.fixture
def letterbox(device: Device, spool: Spool) -> Open:
    """The device's letterbox on a link of its own, straight or by another way; made again, it is that of the next start."""

    @contextlib.contextmanager
    def make(way: BrokerSettings | None = None) -> Iterator[Letterbox]:
        connection = Connection(
            way or device.broker, name="test-letters", metrics=BrokerMetrics(CollectorRegistry())
        )
        consumer = connection.consumer(inbox(device.user), prefetch=PREFETCH)
        with connection:
            yield Letterbox(spool, consumer, arrivals(device, spool), device.user)

    return make


def arrivals(device: Device, spool: Spool) -> Arrivals:
    return Arrivals(Judge(device.client, (KEY.public.text,)), spool.path.parent, 2**28)


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


def test_a_head_of_many_pieces_without_room_keeps_nothing_back_and_what_it_lacks_is_told(
    node: NodeInfo,
    device: Device,
    owner: BrokerSettings,
    server: Server,
    spool: Spool,
    long_head: Path,
    letterbox: Open,
) -> None:
    whole = long_head.stat().st_size // MIN_CHUNK_BYTES
    with letterbox() as letters:
        send(owner, device.user, long_head)
        wait_until(lambda: letters.take(0.1), "the announcement is taken")
        fill(spool)
        server.tell(device.user, ReceiptV1(batch_id="a" * 64, samples=7, duplicate=False), "receipt")

        wait_until(lambda: letters.take(0.1) and receipt_count(spool) == 1, "the receipt is taken")
        assert pieces(spool) == 0
        make_room(spool)
        letters.take_set_by()

        assert pieces(spool) == MAX_SET_BY
        with spool.transaction() as transaction:
            expected = incoming(transaction)
            assert expected is not None
            assert missing(transaction, expected.chunks, 2)[0][0] == MAX_SET_BY
        send(owner, device.user, long_head)
        wait_until(lambda: letters.take(0.1) and pieces(spool) == whole, "all pieces are there")
        wait_until(lambda: not letters.take(0.5), "the last is taken, too")
    assert queued(node, inbox(device.user)) == [], "all of it was acknowledged"


def test_pieces_that_wait_and_come_again_over_another_link_are_no_more_than_before(
    node: NodeInfo, device: Device, owner: BrokerSettings, spool: Spool, head: Path, letterbox: Open
) -> None:
    with Link(node.ports.amqp) as link:
        url = device.url.replace(f":{node.ports.amqp}/", f":{link.port}/")
        with letterbox(BrokerSettings.from_url(url)) as letters:
            send(owner, device.user, head)
            wait_until(lambda: letters.take(0.1), "the announcement is taken")
            fill(spool)
            wait_until(lambda: not letters.take(0.5), "all pieces wait")
            assert link.cut() > 0
            wait_until(lambda: letters.take(0.1), "they come again")
            wait_until(lambda: not letters.take(0.5), "all pieces wait again")
    make_room(spool)

    with letterbox() as letters:
        wait_until(
            lambda: letters.take(0.1) and pieces(spool) == head.stat().st_size // MIN_CHUNK_BYTES,
            "none of them was dropped",
        )


def test_that_a_head_waits_for_room_is_said_once_and_that_it_has_room_too(
    device: Device, owner: BrokerSettings, spool: Spool, head: Path, letterbox: Open
) -> None:
    with letterbox() as letters, structlog.testing.capture_logs() as logs:
        send(owner, device.user, head)
        wait_until(lambda: letters.take(0.1), "the announcement is taken")
        fill(spool)
        wait_until(lambda: not letters.take(0.5), "all pieces wait")
        for _ in range(3):
            letters.take_set_by()
        assert told(logs) == ["head_waits_for_room"]

        make_room(spool)
        letters.take_set_by()
        assert told(logs) == ["head_waits_for_room", "head_has_room"]


def told(logs: list[structlog.typing.EventDict]) -> list[str]:
    """What was logged of heads and room."""
    return [entry["event"] for entry in logs if entry["event"].endswith("_room")]


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
