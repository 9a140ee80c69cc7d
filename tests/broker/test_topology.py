"""The queues of a federation, on a real broker: what is kept, what is refused, what may go."""

from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import NackError, UnroutableError

from broker import topology
from broker.delivery import delivery_count
from broker.errors import TopologyMismatch
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.topology import FEDERATION, QueueSpec, Topology
from tests.conftest import wait_until

REMOVED_ARGUMENTS = {"x-queue-mode", "x-queue-version", "x-ha-policy"}
KINDS = ("samples", "denoise", "prefetch", "telemetry")


@pytest.fixture
def channel(node: NodeInfo) -> Iterator[BlockingChannel]:
    """A channel in confirm mode on a broker whose federation's queues are empty."""
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
        channel = link.channel()
        for queue in FEDERATION.queues:
            channel.queue_purge(queue.name)
        channel.confirm_delivery()
        yield channel


def publish(channel: BlockingChannel, exchange: str, key: str, body: bytes = b"body") -> None:
    channel.basic_publish(
        exchange, key, body, pika.BasicProperties(message_id="m", delivery_mode=2), mandatory=True
    )


def fill(channel: BlockingChannel, queue: str, messages: int) -> None:
    """Publishes bodies of 500 bytes that begin with their number."""
    for number in range(messages):
        publish(channel, "", queue, str(number).encode().ljust(500))


def depth(channel: BlockingChannel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def test_declaring_twice_changes_nothing(channel: BlockingChannel) -> None:
    publish(channel, topology.EXCHANGE_UP, "a_b.samples")

    topology.declare(channel)

    wait_until(lambda: depth(channel, "samples") == 1, "the message is still there")


def test_a_queue_with_other_arguments_is_an_error_with_a_way_out(node: NodeInfo) -> None:
    other = Topology((), (QueueSpec("samples", {"x-queue-type": "quorum"}),), ())
    with (
        pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link,
        pytest.raises(TopologyMismatch, match="samples") as caught,
    ):
        topology.declare(link.channel(), other)

    assert "emptied and deleted" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_each_device_reaches_its_queue_and_no_other(channel: BlockingChannel, kind: str) -> None:
    publish(channel, topology.EXCHANGE_UP, topology.up_key("hospital-a_pc-1", kind))

    wait_until(lambda: depth(channel, kind) == 1, f"the message is in {kind}")
    assert [depth(channel, other) for other in KINDS if other != kind] == [0, 0, 0]


@pytest.mark.parametrize("key", ["a_b.unknown", "a_b", "samples", "a_b.samples.more"])
def test_a_key_of_no_kind_is_unroutable(channel: BlockingChannel, key: str) -> None:
    with pytest.raises(UnroutableError):
        publish(channel, topology.EXCHANGE_UP, key)


def test_a_kind_that_does_not_exist_makes_no_key() -> None:
    with pytest.raises(ValueError, match="one of samples"):
        topology.up_key("a_b", "secrets")


@pytest.mark.parametrize("queue", topology.WORK_QUEUES)
def test_a_message_that_keeps_coming_back_is_never_dropped_by_the_broker(
    channel: BlockingChannel, queue: str
) -> None:
    """RabbitMQ 4 drops after 20 returns what no limit was set for; when to give up is our consumers' to say."""
    publish(channel, topology.EXCHANGE_UP, topology.up_key("a_b", queue), b"kills every worker")

    for _ in range(40):
        delivery, properties, _ = channel.basic_get(queue)
        assert delivery is not None
        channel.basic_nack(delivery.delivery_tag, requeue=True)

    delivery, properties, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"kills every worker"
    assert delivery_count(properties.headers, redelivered=delivery.redelivered) == 40


@pytest.mark.parametrize("queue", topology.WORK_QUEUES)
def test_the_broker_sets_nothing_aside_by_itself(channel: BlockingChannel, queue: str) -> None:
    """For it would believe what the publisher says of earlier deaths, and RabbitMQ 3.10 dies of some of that."""
    malformed = pika.BasicProperties(expiration="1", delivery_mode=2, headers={"x-death": [1, "a"]})
    channel.basic_publish(
        topology.EXCHANGE_UP, topology.up_key("a_b", queue), b"a trap", malformed, mandatory=True
    )

    wait_until(lambda: depth(channel, queue) == 0, "the message has expired")

    assert depth(channel, "dead") == 0
    publish(channel, topology.EXCHANGE_UP, topology.up_key("a_b", queue), b"the next one")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"the next one"


def test_a_full_work_queue_refuses_and_keeps_the_oldest(channel: BlockingChannel) -> None:
    work = next(queue for queue in FEDERATION.queues if queue.name == "samples")
    small = QueueSpec("test-full", dict(work.arguments) | {"x-max-length-bytes": 2000})
    topology.declare(channel, Topology((), (small,), ()))
    try:
        with pytest.raises(NackError):
            fill(channel, "test-full", 100)
        assert channel.basic_get("test-full", auto_ack=True)[2].strip() == b"0"
    finally:
        channel.queue_delete("test-full")


def test_full_telemetry_takes_the_newest_and_drops_the_oldest(channel: BlockingChannel) -> None:
    telemetry = next(queue for queue in FEDERATION.queues if queue.name == "telemetry")
    small = QueueSpec("test-telemetry", dict(telemetry.arguments) | {"x-max-length-bytes": 2000})
    topology.declare(channel, Topology((), (small,), ()))
    try:
        fill(channel, "test-telemetry", 20)
        assert channel.basic_get("test-telemetry", auto_ack=True)[2].strip() == b"16"
    finally:
        channel.queue_delete("test-telemetry")


@pytest.mark.parametrize("key", ["device.hospital-a_pc-1", "client.hospital-a", "all"])
def test_an_inbox_gets_what_is_for_the_device_its_client_or_all(channel: BlockingChannel, key: str) -> None:
    mine, other = topology.inbox("hospital-a", "pc-1"), topology.inbox("hospital-b", "pc-1")
    topology.declare(channel, mine)
    topology.declare(channel, other)
    try:
        publish(channel, topology.EXCHANGE_DOWN, key)

        wait_until(lambda: depth(channel, mine.queues[0].name) == 1, "the message is in the inbox")
        assert depth(channel, other.queues[0].name) == (1 if key == "all" else 0)
    finally:
        for inbox in (mine, other):
            channel.queue_delete(inbox.queues[0].name)


def test_keys_are_those_the_inbox_is_bound_to() -> None:
    keys = {binding.routing_key for binding in topology.inbox("hospital-a", "pc-1").bindings}

    assert keys == {
        topology.device_key("hospital-a_pc-1"),
        topology.client_key("hospital-a"),
        topology.ALL_KEY,
    }


def test_every_queue_says_its_type_and_its_bound() -> None:
    for queue in (*FEDERATION.queues, *topology.inbox("a", "b").queues, *topology.reports("a", "b").queues):
        assert queue.arguments["x-queue-type"] in {"quorum", "classic"}
        assert int(queue.arguments["x-max-length-bytes"]) > 0
        assert queue.arguments["x-overflow"] in {"reject-publish", "drop-head"}
        assert not REMOVED_ARGUMENTS & set(queue.arguments)


def test_only_telemetry_may_lose_anything() -> None:
    losing = {queue.name for queue in FEDERATION.queues if queue.arguments["x-overflow"] == "drop-head"}

    assert losing == {"telemetry"}


def test_the_broker_holds_exactly_what_is_declared(node: NodeInfo) -> None:
    with Management(node.management_url, node.user, node.password) as management:
        for queue in FEDERATION.queues:
            found = management.queue(node.vhost, queue.name)
            assert found is not None
            assert found["durable"] is True
            assert found["auto_delete"] is False
            assert found["arguments"] == dict(queue.arguments)


def test_declaring_through_the_management_api_is_the_same(node: NodeInfo, channel: BlockingChannel) -> None:
    with Management(node.management_url, node.user, node.password) as management:
        management.declare(node.vhost, FEDERATION)

    topology.declare(channel)
