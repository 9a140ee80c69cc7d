import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from prometheus_client import CollectorRegistry

from broker.backoff import Backoff
from broker.connection import Connection
from broker.errors import ConfirmTimeout, ConnectionLost, Nacked, PublishFailed
from broker.node.local_node import NodeInfo
from broker.publisher import Outgoing, Publisher
from broker.settings import BrokerSettings
from edge_agent.link import outbox
from edge_agent.link.relay import WINDOW, Relay
from edge_agent.storage.spool import Spool
from monitoring.metrics import BrokerMetrics
from tests.conftest import WAIT_SECONDS, wait_until
from tests.edge_agent.conftest import Device
from tests.edge_agent.rows import put
from tests.edge_agent.test_agent import queued


class Unlucky:
    """A real publisher whose first confirms never reach the device: the messages arrive all the same."""

    def __init__(self, publisher: Publisher, losses: int, error: PublishFailed) -> None:
        self.sent: list[str] = []
        self._publisher = publisher
        self._losses = losses
        self._error = error

    def send(self, message: Outgoing) -> Future[None]:
        self.sent.append(message.message_id)
        confirmed = self._publisher.send(message)
        if len(self.sent) > self._losses:
            return confirmed
        confirmed.result(WAIT_SECONDS)
        lost: Future[None] = Future()
        lost.set_exception(self._error)
        return lost


@pytest.fixture
def connection(device: Device, server_settings: BrokerSettings) -> Iterator[Connection]:
    connection = Connection(device.broker, name="test-relay", metrics=BrokerMetrics(CollectorRegistry()))
    with connection:
        connection.wait_connected(WAIT_SECONDS)
        yield connection


def ready_publisher(connection: Connection) -> Publisher:
    """A publisher whose channel stands: it takes a message at once."""
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)
    return publisher


def waiting(spool: Spool) -> int:
    return outbox.load(spool).messages


def run(spool: Spool, connection: Connection, sender: Unlucky | Publisher) -> Relay:
    relay = Relay(
        spool.path,
        sender,
        user=connection.user,
        connected=lambda: connection.connected,
        backoff=Backoff(first_seconds=0.01, limit_seconds=0.05),
    )
    relay.start()
    return relay


@pytest.mark.parametrize("error", [ConnectionLost("the link went"), ConfirmTimeout("no confirm came")])
def test_a_message_whose_confirm_was_lost_stays_and_is_sent_again_under_its_id(
    node: NodeInfo, spool: Spool, connection: Connection, error: PublishFailed
) -> None:
    put(spool, "batch")
    sender = Unlucky(ready_publisher(connection), losses=2, error=error)
    relay = run(spool, connection, sender)
    try:
        wait_until(lambda: waiting(spool) == 0, "the outbox is empty")
    finally:
        relay.stop()

    assert sender.sent == ["batch"] * 3
    assert [message_id for message_id, _ in queued(node, "samples")] == ["batch"] * 3


def test_a_message_that_the_broker_refuses_stays_with_the_reason(
    spool: Spool, connection: Connection
) -> None:
    put(spool, "batch")
    relay = run(
        spool,
        connection,
        Unlucky(ready_publisher(connection), losses=10**6, error=Nacked("the queue is full")),
    )
    try:
        wait_until(lambda: spool.rows("SELECT attempts FROM outbox")[0][0] >= 3, "it was tried three times")
    finally:
        relay.stop()

    assert waiting(spool) == 1
    assert spool.rows("SELECT last_error FROM outbox")[0][0] == "the queue is full"


def test_several_confirms_are_awaited_at_once_and_all_arrive(
    node: NodeInfo, spool: Spool, connection: Connection
) -> None:
    names = [f"batch-{number}" for number in range(5 * WINDOW)]
    for name in names:
        put(spool, name)
    relay = run(spool, connection, connection.publisher(window=WINDOW))
    try:
        wait_until(lambda: waiting(spool) == 0, "the outbox is empty")
    finally:
        relay.stop()

    assert [message_id for message_id, _ in queued(node, "samples")] == names


def test_while_the_link_is_down_nothing_is_tried_and_nothing_is_lost(
    spool: Spool, connection: Connection
) -> None:
    put(spool, "batch")
    sender = Unlucky(ready_publisher(connection), losses=0, error=ConnectionLost("unused"))
    up = False
    relay = Relay(spool.path, sender, user=connection.user, connected=lambda: up)
    relay.start()
    try:
        put(spool, "second")
        relay.wake()
        assert waiting(spool) == 2
        assert sender.sent == []
        up = True
        wait_until(lambda: waiting(spool) == 0, "the outbox is empty")
    finally:
        relay.stop()

    assert sender.sent == ["batch", "second"]


def test_a_request_overtakes_a_thousand_messages_that_were_there_before_it(
    node: NodeInfo, spool: Spool, connection: Connection
) -> None:
    for number in range(1000):
        put(spool, f"batch-{number}")
    sender = Unlucky(connection.publisher(window=WINDOW), losses=0, error=ConnectionLost("unused"))
    relay = run(spool, connection, sender)
    try:
        wait_until(lambda: len(sender.sent) > WINDOW, "it is at work")
        put(spool, "request", kind="denoise")
        relay.wake()
        wait_until(lambda: "request" in sender.sent, "the request is sent")
        behind = 1001 - sender.sent.index("request")
        wait_until(lambda: waiting(spool) == 0, "the outbox is empty")
    finally:
        relay.stop()

    assert behind > 100, "most of the others went later"


def test_after_a_success_the_next_failure_waits_like_the_first(spool: Spool, connection: Connection) -> None:
    backoff = Backoff(first_seconds=0.01, limit_seconds=0.02)
    sender = Unlucky(ready_publisher(connection), losses=6, error=ConfirmTimeout("no confirm came"))
    relay = Relay(
        spool.path, sender, user=connection.user, connected=lambda: connection.connected, backoff=backoff
    )
    relay.start()
    try:
        put(spool, "batch")
        wait_until(lambda: len(sender.sent) >= 5, "it fails again and again")
        assert backoff.failures >= 4
        wait_until(lambda: waiting(spool) == 0, "the outbox is empty")
    finally:
        relay.stop()

    assert backoff.failures == 0


def test_a_metered_link_carries_requests_alone(
    node: NodeInfo, spool: Spool, connection: Connection, server_settings: BrokerSettings
) -> None:
    put(spool, "batch")
    put(spool, "pool", kind="prefetch")
    sender = Unlucky(ready_publisher(connection), losses=0, error=ConnectionLost("unused"))
    relay = Relay(
        spool.path, sender, user=connection.user, connected=lambda: connection.connected, metered=True
    )
    relay.start()
    try:
        put(spool, "request", kind="denoise")
        wait_until(lambda: waiting(spool) == 2, "the request is sent")
    finally:
        relay.stop()

    assert sender.sent == ["request"]
    assert outbox.held_back(spool).messages == 2


def test_a_cap_holds_over_time_and_a_request_does_not_wait_for_it(
    spool: Spool, connection: Connection
) -> None:
    for number in range(40):
        put(spool, f"batch-{number}", body=bytes(1000))
    sender = Unlucky(ready_publisher(connection), losses=0, error=ConnectionLost("unused"))
    relay = Relay(
        spool.path,
        sender,
        user=connection.user,
        connected=lambda: connection.connected,
        bytes_per_second=10_000,
    )
    started = time.monotonic()
    relay.start()
    try:
        wait_until(lambda: len(sender.sent) >= 12, "the burst has gone")
        put(spool, "request", kind="denoise", body=bytes(1000))
        wait_until(lambda: "request" in sender.sent, "the request is sent")
        assert len(sender.sent) < 35, "the others wait"
        wait_until(lambda: waiting(spool) == 0, "the outbox is empty")
    finally:
        relay.stop()

    assert 41_000 / (time.monotonic() - started) < 1.5 * 10_000, (
        "a burst of 10,000 bytes, then 10,000 a second"
    )
