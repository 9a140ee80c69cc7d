"""Between devices there is a wall: for every pair of them, everything that one could try with what is the other's.

The pairs are those that a careless pattern would let through: devices of one client, names that begin alike, names that hold one
another.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker
from prometheus_client import CollectorRegistry

from broker import identities, topology
from broker.codec import decode, encode
from broker.connection import Connection
from broker.delivery import expect_user
from broker.errors import Refused
from broker.management import Management
from broker.names import inbox, user_name
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from monitoring.metrics import BrokerMetrics
from tests.broker import examples
from tests.broker.conftest import wait_refused
from tests.conftest import WAIT_SECONDS, wait_until

ACCESS_REFUSED, PRECONDITION_FAILED = 403, 406
DEVICES = [("ward", "pc-1"), ("ward", "pc-10"), ("ward-a", "pc-1"), ("a-ward", "pc-1"), ("ward", "pc-1-x")]
PAIRS = [(a, b) for a in DEVICES for b in DEVICES if a != b]


@pytest.fixture(scope="module")
def credentials(node: NodeInfo) -> Iterator[dict[str, str]]:
    """User → URL of every device."""
    address = BrokerSettings.from_url(node.amqp_url)
    with Management(node.management_url, node.user, node.password) as management:
        made = [identities.enroll(management, *device, address=address) for device in DEVICES]
        yield {user_name(one.client, one.device): one.amqp_url for one in made}
        for device in DEVICES:
            identities.revoke(management, *device, vhost=node.vhost)


def publish(exchange: str, key: str, **properties: Any) -> Callable[[BlockingChannel], None]:
    return lambda channel: channel.basic_publish(exchange, key, b"", pika.BasicProperties(**properties))


def attempts(a: str, b: str) -> dict[str, tuple[Callable[[BlockingChannel], Any], int]]:
    """What device `a` may try with what is `b`'s, and the code that must answer it."""
    theirs, mine = inbox(b), inbox(a)
    tries: dict[str, Callable[[BlockingChannel], Any]] = {
        f"publish {kind} as it": publish(topology.EXCHANGE_UP, topology.up_key(b, kind))
        for kind in topology.UP_KINDS
    }
    tries |= {
        "publish to its inbox by the default exchange": publish("", theirs),
        "publish down to it": publish(topology.EXCHANGE_DOWN, topology.device_key(b)),
        "publish down to its client": publish(
            topology.EXCHANGE_DOWN, topology.client_key(b.partition("_")[0])
        ),
        "publish down to all": publish(topology.EXCHANGE_DOWN, topology.ALL_KEY),
        "consume its inbox": lambda channel: channel.basic_consume(theirs, lambda *_: None),
        "consume its inbox alone": lambda channel: channel.basic_consume(
            theirs, lambda *_: None, exclusive=True
        ),
        "get from its inbox": lambda channel: channel.basic_get(theirs),
        "declare its inbox": lambda channel: channel.queue_declare(theirs, durable=True),
        "declare its inbox as its own": lambda channel: channel.queue_declare(theirs, exclusive=True),
        "delete its inbox": lambda channel: channel.queue_delete(theirs),
        "purge its inbox": lambda channel: channel.queue_purge(theirs),
        "bind its inbox": lambda channel: channel.queue_bind(theirs, topology.EXCHANGE_UP, "#"),
        "unbind its inbox": lambda channel: channel.queue_unbind(
            theirs, topology.EXCHANGE_DOWN, topology.device_key(b)
        ),
        "bind its own inbox to the other's letters": lambda channel: channel.queue_bind(
            mine, topology.EXCHANGE_DOWN, topology.device_key(b)
        ),
        "bind its own inbox to what the other sends": lambda channel: channel.queue_bind(
            mine, topology.EXCHANGE_UP, f"{b}.*"
        ),
        "dead-letter into its inbox": lambda channel: channel.queue_declare(
            f"trap-{a}",
            durable=True,
            arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": theirs},
        ),
    }
    refused = {what: (act, ACCESS_REFUSED) for what, act in tries.items()}
    forged = publish(topology.EXCHANGE_UP, topology.up_key(a, "samples"), user_id=b)
    return refused | {"publish its own with the other's user_id": (forged, PRECONDITION_FAILED)}


@pytest.mark.parametrize(("a", "b"), PAIRS, ids="_".join)
def test_no_device_can_do_anything_with_what_is_anothers(
    credentials: dict[str, str], a: tuple[str, str], b: tuple[str, str]
) -> None:
    mine, theirs = user_name(*a), user_name(*b)
    answers = {}
    with pika.BlockingConnection(pika.URLParameters(credentials[mine])) as link:
        for what, (act, _) in attempts(mine, theirs).items():
            channel = link.channel()
            channel.confirm_delivery()
            try:
                act(channel)
                answers[what] = 0
                channel.close()
            except ChannelClosedByBroker as error:
                answers[what] = error.reply_code

    assert answers == {what: code for what, (_, code) in attempts(mine, theirs).items()}


def test_a_device_can_learn_how_many_messages_wait_for_another_at_most(credentials: dict[str, str]) -> None:
    """Older RabbitMQs let whoever may enter the vhost declare passively, which no right prevents; 4.3 refuses it."""
    with pika.BlockingConnection(pika.URLParameters(credentials["ward_pc-1"])) as link:
        try:
            found = link.channel().queue_declare(inbox("ward_pc-10"), passive=True).method
            learnt: tuple[int, ...] = (found.message_count, found.consumer_count)
        except ChannelClosedByBroker as error:
            learnt = (error.reply_code,)

    assert learnt in {(0, 0), (ACCESS_REFUSED,)}


def test_a_reply_to_of_the_senders_choosing_is_not_even_seen(
    credentials: dict[str, str], server_settings: BrokerSettings
) -> None:
    """Whoever answers derives the inbox from the validated user; `server_worker/test_forgery.py` has a worker do it."""
    with pika.BlockingConnection(pika.URLParameters(credentials["ward_pc-1"])) as link:
        channel = link.channel()
        channel.confirm_delivery()
        body = encode(examples.denoise())
        channel.basic_publish(
            topology.EXCHANGE_UP,
            "ward_pc-1.denoise",
            body,
            pika.BasicProperties(
                user_id="ward_pc-1",
                type="denoise.v1",
                reply_to=inbox("ward_pc-10"),
                message_id="m",
                delivery_mode=2,
            ),
        )
    connection = Connection(server_settings, name="test", metrics=BrokerMetrics(CollectorRegistry()))
    consumer = connection.consumer(topology.QUEUE_DENOISE, prefetch=1)
    with connection:
        delivery = consumer.get(WAIT_SECONDS)
        assert delivery is not None
        assert expect_user(delivery) == ("ward", "pc-1")
        assert not hasattr(delivery, "reply_to")
        delivery.ack()


@pytest.mark.parametrize("field", ["client", "device", "user_id", "reply_to"])
def test_what_a_payload_says_of_its_sender_is_refused(field: str) -> None:
    body = msgpack.packb({**msgpack.unpackb(encode(examples.receipt())), field: "ward-a"})

    with pytest.raises(Refused) as refusal:
        decode("receipt.v1", body)

    assert refusal.value.reason == "invalid_fields"


def test_a_device_may_hold_so_many_connections_and_no_more(node: NodeInfo) -> None:
    address = BrokerSettings.from_url(node.amqp_url)
    with Management(node.management_url, node.user, node.password) as management:
        limited = identities.enroll(
            management,
            "ward",
            "limited",
            address=address,
            limits=identities.Limits(connections=2, channels=3),
        )
    url = pika.URLParameters(limited.amqp_url)
    with pika.BlockingConnection(url) as first, pika.BlockingConnection(url):
        one_more = Connection(
            BrokerSettings.from_url(limited.amqp_url), name="test", metrics=BrokerMetrics(CollectorRegistry())
        )
        with one_more:
            wait_refused(one_more, r"no more connections: .*limit \(2\)")
            # It keeps trying, and gets in when there is room.
            first.close()
            one_more.wait_connected(WAIT_SECONDS)
    with pika.BlockingConnection(url) as link:
        for _ in range(3):
            link.channel()
        with pytest.raises(Exception, match="limit"):
            link.channel()


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_more_keys_in_a_header_do_not_make_a_device_another(
    credentials: dict[str, str], server_settings: BrokerSettings, header: str
) -> None:
    """RabbitMQ 4.0 refuses them. 3.10 compares the routing key alone, and yet the sender stays who it is."""
    properties = pika.BasicProperties(
        user_id="ward_pc-1", type="receipt.v1", headers={header: ["ward_pc-10.samples", "ward_pc-10.admin"]}
    )
    code = 0
    with pika.BlockingConnection(pika.URLParameters(credentials["ward_pc-1"])) as link:
        channel = link.channel()
        channel.confirm_delivery()
        try:
            channel.basic_publish(
                topology.EXCHANGE_UP, "ward_pc-1.samples", encode(examples.receipt()), properties
            )
        except ChannelClosedByBroker as error:
            code = error.reply_code
    assert code in {0, ACCESS_REFUSED}
    if code == ACCESS_REFUSED:
        return
    connection = Connection(server_settings, name="test", metrics=BrokerMetrics(CollectorRegistry()))
    consumer = connection.consumer(topology.QUEUE_SAMPLES, prefetch=4)
    with connection:
        delivery = consumer.get(WAIT_SECONDS)
        assert delivery is not None
        assert expect_user(delivery) == ("ward", "pc-1")
        delivery.ack()
        assert consumer.get(0.2) is None, "it came once"


def test_revoking_ends_open_connections_at_once(node: NodeInfo) -> None:
    address = BrokerSettings.from_url(node.amqp_url)
    with Management(node.management_url, node.user, node.password) as management:
        device = identities.enroll(management, "ward", "leaving", address=address)
        connections = [
            Connection(
                BrokerSettings.from_url(device.amqp_url),
                name="test",
                metrics=BrokerMetrics(CollectorRegistry()),
            )
            for _ in range(3)
        ]
        for connection in connections:
            connection.publisher()
            connection.start()
            connection.wait_connected(WAIT_SECONDS)

        assert identities.revoke(management, "ward", "leaving", vhost=node.vhost)

        for connection in connections:
            wait_until(lambda c=connection: not c.connected, "the open connection ends")  # type: ignore[misc]
            wait_refused(connection, "user or the password")
            connection.stop()
        assert not identities.revoke(management, "ward", "leaving", vhost=node.vhost)


def test_renewing_ends_what_is_open_under_the_old_password(node: NodeInfo) -> None:
    address = BrokerSettings.from_url(node.amqp_url)
    with Management(node.management_url, node.user, node.password) as management:
        stolen = identities.enroll(management, "ward", "renewed", address=address)
        thief = Connection(
            BrokerSettings.from_url(stolen.amqp_url), name="test", metrics=BrokerMetrics(CollectorRegistry())
        )
        with thief:
            thief.wait_connected(WAIT_SECONDS)

            mine = identities.enroll(management, "ward", "renewed", address=address, renew=True)

            wait_until(lambda: not thief.connected, "the open connection ends")
            wait_refused(thief, "user or the password")
        with pika.BlockingConnection(pika.URLParameters(mine.amqp_url)) as link:
            link.channel().basic_get(inbox("ward_renewed"))
        identities.revoke(management, "ward", "renewed", vhost=node.vhost)
