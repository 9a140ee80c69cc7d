"""The connection, its publishers and its consumers, against a real node and real faults."""

import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import pika
import pytest
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.contract.receipts import ReceiptV1
from broker.delivery import (
    COUNT_HEADERS,
    DETAIL_HEADER,
    ORIGIN_HEADER,
    REASON_HEADER,
    SENDER_HEADER,
    expect_user,
)
from broker.errors import BrokerUnreachable, ConfirmTimeout, ConnectionLost, Nacked, Refused, Unroutable
from broker.node.local_node import LocalNode, NodeInfo
from broker.publisher import Outgoing, outgoing
from broker.settings import BrokerSettings
from broker.topology import FEDERATION, QUEUE_DEAD, QUEUE_DENOISE, declare
from monitoring.metrics import BrokerMetrics
from tests.broker.conftest import wait_refused
from tests.conftest import WAIT_SECONDS, is_registered, wait_until
from tests.link import Link

Connect = Callable[[BrokerSettings], Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connections that are closed at the end."""
    opened: list[Connection] = []

    def make(settings: BrokerSettings) -> Connection:
        connection = Connection(settings, name="test", metrics=BrokerMetrics(CollectorRegistry()))
        opened.append(connection)
        connection.start()
        return connection

    yield make
    for connection in opened:
        connection.stop()


@pytest.fixture
def queue(node: NodeInfo) -> Iterator[str]:
    """A durable queue of this test's own."""
    name = f"test-{uuid.uuid4().hex}"
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        channel = amqp.channel()
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 3})
        yield name
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        amqp.channel().queue_delete(name)


@pytest.fixture
def link(node: NodeInfo) -> Iterator[Link]:
    """A way to the broker that the test can cut."""
    with Link(node.ports.amqp) as link:
        yield link


def to(queue: str, body: bytes = b"body", message_id: str | None = None) -> Outgoing:
    return Outgoing(
        exchange="",
        routing_key=queue,
        message_id=message_id or uuid.uuid4().hex,
        type="receipt.v1",
        body=body,
    )


def wait_for_callbacks(connection: Connection) -> None:
    """Wait until the connection's thread has done what it was told to do, and what that told it in its turn."""
    for _ in range(3):
        done = threading.Event()
        connection.call(done.set)
        assert done.wait(20)


def depth(node: NodeInfo, queue: str) -> int:
    """Messages in a queue that nobody holds."""
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        return int(amqp.channel().queue_declare(queue, passive=True).method.message_count)


def test_what_is_confirmed_stands_in_the_queue(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher = connection.publisher(window=16)
    connection.wait_connected(WAIT_SECONDS)

    futures = [publisher.send(to(queue, str(number).encode())) for number in range(200)]

    done, waiting = wait(futures, timeout=WAIT_SECONDS)
    assert not waiting
    assert [future.exception() for future in done] == [None] * 200
    wait_until(lambda: depth(node, queue) == 200, "all confirmed messages stand in the queue")


def test_a_message_for_no_queue_is_an_error_and_the_next_one_is_not(
    server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)

    lost, kept = publisher.send(to("no-such-queue")), publisher.send(to(queue))

    with pytest.raises(Unroutable, match="no-such-queue"):
        lost.result(10)
    assert kept.result(10) is None


def test_a_full_queue_is_an_error(node: NodeInfo, server_settings: BrokerSettings, connect: Connect) -> None:
    name = f"full-{uuid.uuid4().hex}"
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        limits = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
        amqp.channel().queue_declare(name, durable=True, arguments=limits)
    connection = connect(server_settings)
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(to(name))

    with pytest.raises(Nacked, match=name):
        publisher.publish(to(name))

    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        amqp.channel().queue_delete(name)


def test_a_dead_broker_is_named_and_the_attempts_go_on(node: NodeInfo, connect: Connect) -> None:
    settings = BrokerSettings.from_url("amqp://somebody:secret@127.0.0.1:1/nowhere")
    connection = connect(settings)
    publisher = connection.publisher()

    assert "secret" not in wait_refused(connection, r"127\.0\.0\.1:1.*somebody.*nothing listens")
    with pytest.raises(ConnectionLost):
        publisher.publish(to("anywhere"))
    wait_until(lambda: _value(connection.metrics.reconnects_total) >= 2, "it tries again")


def test_wrong_credentials_are_named(node: NodeInfo, connect: Connect) -> None:
    url = node.amqp_url.replace(node.user, "nobody")

    wait_refused(connect(BrokerSettings.from_url(url)), "user or the password")


def test_a_delivery_carries_its_envelope_and_goes_when_acked(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher, consumer = connection.publisher(), connection.consumer(queue, prefetch=4)
    connection.wait_connected(WAIT_SECONDS)
    receipt = ReceiptV1(batch_id="ab" * 32, samples=3, duplicate=False)
    publisher.publish(
        outgoing(receipt, exchange="", routing_key=queue, message_id="one", correlation_id="other")
    )

    delivery = consumer.get(WAIT_SECONDS)

    assert delivery is not None
    assert delivery.message() == receipt
    assert (delivery.message_id, delivery.type, delivery.correlation_id) == ("one", "receipt.v1", "other")
    assert delivery.user_id == server_settings.user
    assert delivery.lag_seconds is not None
    assert 0 <= delivery.lag_seconds < 10
    assert not delivery.redelivered
    delivery.ack()
    connection.stop()
    wait_until(lambda: depth(node, queue) == 0, "an acked message is gone")


def test_what_is_not_acked_comes_again_counted(
    server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    first = connect(server_settings)
    held = first.consumer(queue, prefetch=1)
    first.wait_connected(WAIT_SECONDS)
    first_publisher = first.publisher()
    first.wait_connected(WAIT_SECONDS)
    first_publisher.publish(to(queue, message_id="mine"))
    assert held.get(WAIT_SECONDS) is not None
    first.stop()

    second = connect(server_settings).consumer(queue, prefetch=1)
    again = second.get(WAIT_SECONDS)

    assert again is not None
    assert again.message_id == "mine"
    assert again.redelivered
    assert again.delivery_count == 1
    again.ack()


@pytest.mark.parametrize("claimed", [None, -(10**9)])
def test_what_was_given_back_is_counted_whatever_its_sender_says(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str, claimed: int | None
) -> None:
    """RabbitMQ 4.3 counts it in another header than the versions before."""
    headers = {} if claimed is None else dict.fromkeys(COUNT_HEADERS, claimed)
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        channel = amqp.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"", pika.BasicProperties(headers=headers), mandatory=True)
        for _ in range(3):
            method, _, _ = channel.basic_get(queue)
            channel.basic_nack(method.delivery_tag, requeue=True)

    again = connect(server_settings).consumer(queue, prefetch=1).get(WAIT_SECONDS)

    assert again is not None
    assert again.delivery_count == 3
    again.ack()


def test_what_is_refused_stands_among_the_dead_with_its_reason(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher, consumer = connection.publisher(), connection.consumer(queue, prefetch=1)
    dead = connection.consumer(QUEUE_DEAD, prefetch=1)
    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(to(queue, b"poison", message_id="bad"))
    publisher.publish(to(queue, b"wholesome", message_id="good"))
    poison = consumer.get(WAIT_SECONDS)
    assert poison is not None

    with pytest.raises(Refused) as refusal:
        poison.message()
    poison.refuse(refusal.value.reason, refusal.value.detail)

    after = consumer.get(WAIT_SECONDS)
    assert after is not None
    assert after.message_id == "good", "the queue moves on"
    after.ack()
    buried = dead.get(WAIT_SECONDS)
    assert buried is not None
    assert buried.body == b"poison"
    assert buried.headers[REASON_HEADER] == refusal.value.reason
    assert buried.headers[DETAIL_HEADER] == refusal.value.detail
    assert buried.headers[ORIGIN_HEADER] == queue
    assert buried.headers[SENDER_HEADER] == server_settings.user
    buried.ack()


def test_a_sender_that_the_broker_did_not_validate_is_refused(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    consumer = connection.consumer(queue, prefetch=1)
    connection.wait_connected(WAIT_SECONDS)
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        amqp.channel().basic_publish("", queue, b"who am I")
    delivery = consumer.get(WAIT_SECONDS)
    assert delivery is not None

    with pytest.raises(Refused) as refusal:
        expect_user(delivery)

    assert refusal.value.reason == "no_user_id"
    delivery.ack()


def test_a_cancelled_consumer_consumes_again(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher, consumer = connection.publisher(), connection.consumer(queue, prefetch=1)
    connection.wait_connected(WAIT_SECONDS)
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        amqp.channel().queue_delete(queue)
    # RabbitMQ 3.10 forgets to cancel when a quorum queue comes back under its name within milliseconds: see the cancel first.
    wait_until(lambda: not connection.connected, "the consumer notices that its queue is gone")
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        amqp.channel().queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    # RabbitMQ 3.10 may end the whole connection (541) of one who subscribes to a queue that is just going.
    connection.wait_connected(WAIT_SECONDS)

    publisher.publish(to(queue, message_id="after the deletion"))

    delivery = consumer.get(WAIT_SECONDS)
    assert delivery is not None
    assert delivery.message_id == "after the deletion"
    delivery.ack()


def test_a_consumer_that_the_broker_forgot_consumes_again(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher, consumer = connection.publisher(), connection.consumer(queue, prefetch=1, idle_seconds=1.0)
    connection.wait_connected(WAIT_SECONDS)

    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        # Within milliseconds, RabbitMQ 3.10 tells no consumer of it.
        amqp.channel().queue_delete(queue)
        amqp.channel().queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    publisher.publish(to(queue, message_id="after the deletion"))

    delivery = consumer.get(WAIT_SECONDS)
    assert delivery is not None
    assert delivery.message_id == "after the deletion"
    delivery.ack()
    wait_until(lambda: depth(node, queue) == 0, "the message is taken once")
    assert consumer.get(2.0) is None


def test_an_idle_consumer_misses_nothing_while_it_subscribes_again(
    server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher, consumer = connection.publisher(), connection.consumer(queue, prefetch=4, idle_seconds=0.05)
    connection.wait_connected(WAIT_SECONDS)

    for number in range(20):
        publisher.publish(to(queue, message_id=f"{number}"))
        delivery = consumer.get(WAIT_SECONDS)
        assert delivery is not None
        assert delivery.message_id == f"{number}"
        # Held for longer than the consumer may be idle: it must not come a second time.
        assert consumer.get(0.1) is None
        delivery.ack()


def test_a_signal_that_outlasts_the_wait_does_not_make_it_endless(server_settings: BrokerSettings) -> None:
    """A worker is told to stop by a signal, in the middle of such a wait as likely as not."""
    code = """
        import signal, sys, time
        from prometheus_client import CollectorRegistry
        from broker.connection import Connection
        from broker.settings import BrokerSettings
        from monitoring.metrics import BrokerMetrics

        settings = BrokerSettings.from_url(sys.argv[1])
        connection = Connection(settings, name="waiting", metrics=BrokerMetrics(CollectorRegistry()))
        consumer = connection.consumer("prefetch", prefetch=1)
        signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.05))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        print(consumer.get(0.02))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), server_settings.url.get_secret_value()],
        check=True,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )

    assert done.stdout == "None\n"


def test_a_paused_consumer_leaves_the_messages_in_the_queue(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher, consumer = connection.publisher(), connection.consumer(queue, prefetch=8)
    connection.wait_connected(WAIT_SECONDS)

    consumer.pause()
    for _ in range(5):
        publisher.publish(to(queue))
    wait_until(lambda: depth(node, queue) == 5, "nothing is taken while paused")
    assert consumer.get(0) is None

    consumer.resume()
    taken = [consumer.get(WAIT_SECONDS) for _ in range(5)]
    assert all(delivery is not None for delivery in taken)
    for delivery in taken:
        assert delivery is not None
        delivery.ack()


def test_a_lost_link_fails_what_is_in_flight_and_heals(
    node: NodeInfo, link: Link, connect: Connect, queue: str
) -> None:
    connection = connect(BrokerSettings.from_url(node.amqp_url.replace(str(node.ports.amqp), str(link.port))))
    publisher, consumer = connection.publisher(), connection.consumer(queue, prefetch=1)
    connection.wait_connected(WAIT_SECONDS)
    ended = threading.Event()
    outcomes: list[BaseException | None] = []

    def keep_publishing() -> None:
        while not ended.is_set():
            future = publisher.send(to(queue, message_id=f"{len(outcomes)}"))
            outcomes.append(future.exception(30))

    thread = threading.Thread(target=keep_publishing)
    thread.start()
    wait_until(lambda: len(outcomes) > 20, "messages flow")
    assert link.cut() == 1
    wait_until(lambda: any(isinstance(outcome, ConnectionLost) for outcome in outcomes), "a publish fails")
    failed = len(outcomes)
    wait_until(lambda: None in outcomes[failed:], "publishing goes on after the reconnection")
    ended.set()
    thread.join(WAIT_SECONDS)

    confirmed = {f"{number}" for number, outcome in enumerate(outcomes) if outcome is None}
    received: set[str] = set()
    while not confirmed <= received:
        delivery = consumer.get(WAIT_SECONDS)
        assert delivery is not None, f"{len(confirmed - received)} confirmed messages did not come"
        received.add(delivery.message_id)
        delivery.ack()


def test_a_paused_connection_stays_away_through_cuts_until_it_is_resumed(
    server_settings: BrokerSettings, queue: str, connect: Connect, link: Link
) -> None:
    url = server_settings.url.get_secret_value().replace(f":{link.target_port}/", f":{link.port}/")
    connection = connect(BrokerSettings.from_url(url))
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)

    connection.pause()
    wait_until(lambda: not connection.connected, "it has hung up")
    for _ in range(2):  # a link that is made anew does not bring back what was told to stay away
        connection.cut()
    with pytest.raises(ConnectionLost):
        publisher.publish(Outgoing("", queue, "away", "receipt.v1", b"x"))
    with pytest.raises(BrokerUnreachable):
        connection.wait_connected(1.5)  # longer than the first wait after a failure
    connection.resume()

    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(Outgoing("", queue, "back", "receipt.v1", b"x"))


def test_pausing_and_resuming_in_any_order_leaves_one_connection(
    server_settings: BrokerSettings, queue: str, connect: Connect
) -> None:
    connection = connect(server_settings)
    consumer = connection.consumer(queue, prefetch=10)
    publisher = connection.publisher()
    for act in ("pause", "resume", "pause", "resume", "cut", "pause", "cut", "resume", "resume", "cut"):
        getattr(connection, act)()
    wait_for_callbacks(connection)

    connection.wait_connected(WAIT_SECONDS)
    for number in range(3):
        publisher.publish(Outgoing("", queue, f"m-{number}", "receipt.v1", b"x"))

    taken = [consumer.get(WAIT_SECONDS) for _ in range(3)]
    assert [letter and letter.message_id for letter in taken] == ["m-0", "m-1", "m-2"]
    assert consumer.get(0.2) is None


def test_a_cut_fails_what_is_in_flight_and_heals(
    server_settings: BrokerSettings, queue: str, connect: Connect, link: Link
) -> None:
    url = server_settings.url.get_secret_value().replace(f":{link.target_port}/", f":{link.port}/")
    connection = connect(BrokerSettings.from_url(url))
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)
    link.stall("down")
    flying = publisher.send(Outgoing("", queue, "flying", "receipt.v1", b"x"))

    connection.cut()

    with pytest.raises(ConnectionLost):
        flying.result(5)
    link.resume()
    connection.wait_connected(WAIT_SECONDS)


def test_properties_that_are_no_text_are_refused_like_any_nonsense(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    consumer = connection.consumer(queue, prefetch=1)
    dead = connection.consumer(QUEUE_DEAD, prefetch=1)
    connection.wait_connected(WAIT_SECONDS)
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        no_text = pika.BasicProperties(message_id=b"\xff\xfe", type=b"\xff", correlation_id=b"\xc3")
        amqp.channel().basic_publish("", queue, b"body", no_text)

    delivery = consumer.get(WAIT_SECONDS)

    assert delivery is not None
    assert (delivery.message_id, delivery.type, delivery.correlation_id) == ("", "", None)
    with pytest.raises(Refused) as refusal:
        delivery.message()
    delivery.refuse(refusal.value.reason, refusal.value.detail)
    buried = dead.get(WAIT_SECONDS)
    assert buried is not None
    assert buried.body == b"body"
    buried.ack()


def test_a_fault_on_the_connections_own_thread_is_survived(
    node: NodeInfo, server_settings: BrokerSettings, connect: Connect, queue: str
) -> None:
    connection = connect(server_settings)
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)

    def fail() -> None:
        raise ArithmeticError("a fault of ours")

    connection.call(fail)

    wait_until(lambda: _value(connection.metrics.reconnects_total) >= 1, "the connection is made again")
    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(to(queue))
    wait_until(lambda: depth(node, queue) == 1, "it works again")


def test_a_killed_broker_comes_back_with_every_confirmed_message(tmp_path: Path, connect: Connect) -> None:
    local = LocalNode(tmp_path / "node")
    info = local.start()
    try:
        with pika.BlockingConnection(pika.URLParameters(info.amqp_url)) as amqp:
            declare(amqp.channel(), FEDERATION)
        connection = connect(BrokerSettings.from_url(info.amqp_url))
        publisher = connection.publisher()
        connection.wait_connected(WAIT_SECONDS)
        for number in range(50):
            publisher.publish(to(QUEUE_DENOISE, message_id=f"{number}"))

        wait_until(lambda: is_registered(local.directory, QUEUE_DENOISE), "the queue is on disk")

        local.kill()
        with pytest.raises((ConnectionLost, ConfirmTimeout)):
            publisher.publish(to(QUEUE_DENOISE, message_id="meanwhile"), timeout_seconds=5)
        local.start()

        consumer = connection.consumer(QUEUE_DENOISE, prefetch=50)
        connection.wait_connected(WAIT_SECONDS)
        received = [consumer.get(WAIT_SECONDS) for _ in range(50)]
        assert [delivery and delivery.message_id for delivery in received] == [f"{n}" for n in range(50)]
    finally:
        local.kill()


def _value(counter: object) -> float:
    return float(counter._value.get())  # type: ignore[attr-defined]  # prometheus_client has no public reader


def test_a_queue_that_is_not_there_is_named(server_settings: BrokerSettings, connect: Connect) -> None:
    connection = connect(server_settings)
    connection.consumer("never-declared", prefetch=1)

    wait_refused(connection, "no queue 'never-declared'")
