"""Links that break off, stall, crawl and cut a message in two: what was confirmed is stored once, the rest is sent again."""

import time
from collections.abc import Callable, Iterator

import pytest

from broker.address import BrokerSettings
from broker.backoff import Backoff
from broker.codec import digest, encode
from broker.connection import Connection
from broker.errors import ConfirmTimeout, ConnectionLost
from broker.node.local_node import NodeInfo
from broker.publisher import Outgoing
from broker.topology import EXCHANGE_UP
from edge_agent.link import outbox
from edge_agent.link.relay import Relay
from edge_agent.storage.spool import Spool
from tests.conftest import WAIT_SECONDS, wait_until
from tests.edge_agent.rows import put
from tests.faults.conftest import Connect, Store, through
from tests.link import Link
from tests.server_worker.backbones import sample_batch

BATCHES = 12


def accept(spool: Spool, first: int, count: int, images: int = 4) -> list[str]:
    """Put batches of samples into the outbox; returns their ids."""
    ids = []
    for number in range(first, first + count):
        body = encode(sample_batch(number, images))
        put(spool, digest(body), body)
        ids.append(digest(body))
    return ids


@pytest.fixture
def relay(spool: Spool) -> Iterator[Callable[[Connection], Relay]]:
    """The device's own relay, from its own outbox."""
    running: list[Relay] = []

    def start(connection: Connection) -> Relay:
        relay = Relay(
            spool.path,
            connection.publisher(confirm_timeout_seconds=3),
            user=connection.user,
            connected=lambda: connection.connected,
            backoff=Backoff(first_seconds=0.05, limit_seconds=0.2),
        )
        running.append(relay)
        relay.start()
        return relay

    yield start
    for one in running:
        one.stop()


Start = Callable[[Connection], Relay]


def is_empty(spool: Spool) -> bool:
    return outbox.load(spool).messages == 0


@pytest.mark.parametrize("allowed_bytes", [1, 150, 1_000, 5_000, 9_000])
def test_a_message_that_is_cut_in_two_is_sent_again_and_stored_once(
    node: NodeInfo,
    link: Link,
    device_url: str,
    connect: Connect,
    spool: Spool,
    relay: Start,
    store: Store,
    allowed_bytes: int,
) -> None:
    connection = connect(through(device_url, node, link))
    relay(connection)
    connection.wait_connected(WAIT_SECONDS)
    link.truncate_after(allowed_bytes)

    ids = accept(spool, allowed_bytes, BATCHES)

    wait_until(lambda: is_empty(spool), "the outbox is empty")
    wait_until(lambda: store.store.samples == 4 * BATCHES, "every batch is stored once")
    assert {entry.message_id for entry in store.store.entries()} == set(ids)
    assert connection.metrics.reconnects_total._value.get() >= 1


def test_a_confirm_that_never_comes_leaves_the_row_and_the_repeat_is_recognised(
    node: NodeInfo, link: Link, device_url: str, connect: Connect, spool: Spool, relay: Start, store: Store
) -> None:
    connection = connect(through(device_url, node, link))
    relay(connection)
    connection.wait_connected(WAIT_SECONDS)

    link.stall("down")
    ids = accept(spool, 0, BATCHES)
    wait_until(lambda: store.store.samples == 4 * BATCHES, "the broker has them, and nobody told the device")
    assert outbox.load(spool).messages == BATCHES
    link.cut()
    link.resume()

    wait_until(lambda: is_empty(spool), "the outbox is empty")
    wait_until(lambda: store.repeats >= 4, "the repeats were recognised")
    assert {entry.message_id for entry in store.store.entries()} == set(ids)
    assert store.store.samples == 4 * BATCHES


@pytest.mark.parametrize("directions", [("up",), ("down",), ("up", "down")])
def test_a_link_that_stalls_counts_as_dead_after_two_heartbeats(
    node: NodeInfo, link: Link, server_settings: BrokerSettings, connect: Connect, directions: tuple[str, ...]
) -> None:
    connection = connect(through(node.amqp_url, node, link), heartbeat_seconds=1)
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)

    link.stall(*directions)
    begun = time.monotonic()
    with pytest.raises((ConnectionLost, ConfirmTimeout)):
        publisher.publish(Outgoing("", "samples", "1", "samples.v1", b"x"), timeout_seconds=WAIT_SECONDS)
    assert time.monotonic() - begun < 60

    link.resume()
    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(Outgoing("", "samples", "2", "samples.v1", b"x"), timeout_seconds=WAIT_SECONDS)


def test_over_a_slow_link_large_messages_arrive_whole_and_once(
    node: NodeInfo, link: Link, device_url: str, connect: Connect, spool: Spool, relay: Start, store: Store
) -> None:
    connection = connect(through(device_url, node, link), heartbeat_seconds=2)
    relay(connection)
    connection.wait_connected(WAIT_SECONDS)
    link.delay_seconds, link.bytes_per_second = 0.1, 400_000.0

    # Each takes a second and more on this link, and heartbeats still come through.
    accept(spool, 0, 3, images=3000)

    wait_until(lambda: is_empty(spool), "the outbox is empty")
    wait_until(lambda: store.store.samples == 9000, "every batch is stored")
    assert store.repeats == 0
    assert connection.metrics.reconnects_total._value.get() == 0


def test_a_slow_uplink_drains_without_a_repeat_and_a_request_passes_what_waits(
    node: NodeInfo, link: Link, device_url: str, connect: Connect, spool: Spool, relay: Start, store: Store
) -> None:
    connection = connect(through(device_url, node, link))
    relay(connection)
    connection.wait_connected(WAIT_SECONDS)
    link.bytes_per_second = 300_000.0

    # Four megabytes: far more than the link carries before a message's time is over.
    accept(spool, 0, 12, images=2300)
    wait_until(lambda: store.store.samples > 0, "the first is through")
    put(spool, "request", kind="denoise")
    wait_until(lambda: not spool.rows("SELECT 1 FROM outbox WHERE message_id = 'request'"), "it is confirmed")
    assert outbox.load(spool).messages > 0

    wait_until(lambda: is_empty(spool), "the outbox is empty")
    wait_until(lambda: store.store.samples == 12 * 2300, "every batch is stored")
    assert store.repeats == 0


def test_a_confirm_that_comes_late_counts_and_nothing_is_sent_again(
    node: NodeInfo, link: Link, device_url: str, connect: Connect, spool: Spool, relay: Start, store: Store
) -> None:
    connection = connect(through(device_url, node, link))
    relay(connection)
    connection.wait_connected(WAIT_SECONDS)
    link.stall("down")
    accept(spool, 0, BATCHES)
    failures = connection.metrics.publish_failures_total.labels(reason="confirm_timeout")._value
    wait_until(lambda: failures.get() == BATCHES, "their time is over")

    link.resume()

    wait_until(lambda: is_empty(spool), "the outbox is empty")
    assert connection.metrics.published_total.labels(type="samples.v1")._value.get() == BATCHES
    assert store.repeats == 0


def test_with_much_in_flight_on_a_stalled_link_it_stops_all_the_same(
    node: NodeInfo, link: Link, device_url: str, connect: Connect
) -> None:
    connection = connect(through(device_url, node, link))
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)
    link.stall("up", "down")
    sent = [
        publisher.send(
            Outgoing(EXCHANGE_UP, f"{connection.user}.samples", f"{number}", "samples.v1", bytes(2**20))
        )
        for number in range(8)
    ]
    begun = time.monotonic()

    connection.stop(1.0)

    assert time.monotonic() - begun < 60
    assert not connection._thread.is_alive()
    assert all(isinstance(future.exception(0), ConnectionLost) for future in sent)


def test_a_broker_that_is_away_is_waited_for_and_everything_arrives(
    node: NodeInfo, link: Link, device_url: str, connect: Connect, spool: Spool, relay: Start, store: Store
) -> None:
    link.refuses = True
    connection = connect(through(device_url, node, link))
    relay(connection)
    ids = accept(spool, 0, BATCHES)
    wait_until(lambda: connection.metrics.reconnects_total._value.get() >= 3, "it has tried again and again")
    assert outbox.load(spool).messages == BATCHES

    link.refuses = False

    wait_until(lambda: is_empty(spool), "the outbox is empty")
    wait_until(lambda: {entry.message_id for entry in store.store.entries()} == set(ids), "all are stored")


def test_nothing_of_an_unfinished_message_reaches_the_queue(
    node: NodeInfo, link: Link, device_url: str, connect: Connect, store: Store
) -> None:
    connection = connect(through(device_url, node, link))
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)
    body = encode(sample_batch(1, 500))
    link.truncate_after(len(body) // 2)

    with pytest.raises(ConnectionLost):
        publisher.publish(
            Outgoing(EXCHANGE_UP, f"{connection.user}.samples", digest(body), "samples.v1", body),
            timeout_seconds=WAIT_SECONDS,
        )

    connection.wait_connected(WAIT_SECONDS)
    small = encode(sample_batch(2, 1))
    publisher.publish(Outgoing(EXCHANGE_UP, f"{connection.user}.samples", digest(small), "samples.v1", small))
    wait_until(
        lambda: [entry.message_id for entry in store.store.entries()] == [digest(small)],
        "only the whole one came",
    )
