"""The dead-letter queue of a real broker: what is believed of it, and back to where it came from."""

import datetime
import json
import os
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from broker import identities
from broker.cli import app
from broker.codec import encode
from broker.connection import Connection
from broker.credentials import Credentials
from broker.dead.dead_letters import DeadLetters
from broker.dead.letters import Letter, Wanted
from broker.delivery import Delivery, expect_user
from broker.errors import BrokerError, BrokerUnreachable, ConfigError, Refused, Unroutable
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from broker.topology import EXCHANGE_UP, FEDERATION, QUEUE_DEAD, QUEUE_DENOISE, QUEUE_SAMPLES, declare
from monitoring.metrics import BrokerMetrics
from tests.broker import examples
from tests.conftest import WAIT_SECONDS, wait_until

DEVICE = "clinic-d_pc-1"
OTHER = "clinic-e_pc-2"
FORGED: dict[str, Any] = {
    "x-reason": "forged",
    "x-detail": "[red]\x1b[2J",
    "x-origin-queue": "inbox.clinic-e_pc-2",
    "x-origin-user": OTHER,
    "x-replayed": 7,
    "x-first-death-queue": "collafuse.down",
    "x-first-death-reason": "forged",
    "x-death": [{"queue": "inbox.clinic-e_pc-2", "reason": "forged", "count": 9, "time": 5, "exchange": ""}],
}


@pytest.fixture(scope="module")
def enrolled(node: NodeInfo) -> Iterator[dict[str, Credentials]]:
    """Two devices of two clients, by their users."""
    address = BrokerSettings.from_url(node.amqp_url)
    with Management(node.management_url, node.user, node.password) as management:
        names = [tuple(user.split("_")) for user in (DEVICE, OTHER)]
        yield {
            f"{client}_{device}": identities.enroll(management, client, device, address=address)
            for client, device in names
        }
        for client, device in names:
            identities.revoke(management, client, device, vhost=node.vhost)


@pytest.fixture(scope="module", autouse=True)
def policy(node: NodeInfo) -> Iterator[None]:
    """An operator's policy lets the broker set aside too, as our own declarations do not: what comes of it is not believed."""
    definition = {"dead-letter-exchange": "", "dead-letter-routing-key": QUEUE_DEAD, "delivery-limit": 5}
    body = {"pattern": "^(samples|denoise|prefetch)$", "definition": definition, "apply-to": "queues"}
    with httpx.Client(base_url=node.management_url, auth=(node.user, node.password)) as management:
        place = f"/api/policies/{node.vhost}/set-aside"
        management.put(place, json=body).raise_for_status()
        yield
        management.delete(place).raise_for_status()


@pytest.fixture
def channel(server_settings: BrokerSettings) -> Iterator[BlockingChannel]:
    """A server-side channel in confirm mode; all queues are empty."""
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as link:
        channel = link.channel()
        channel.confirm_delivery()
        yield channel


Send = Callable[..., None]


@pytest.fixture
def send(enrolled: dict[str, Credentials]) -> Iterator[Send]:
    """Publishes as one of the devices."""
    links: dict[str, BlockingChannel] = {}

    def publish(kind: str, body: bytes = b"body", *, user: str = DEVICE, **properties: Any) -> None:
        if user not in links:
            links[user] = pika.BlockingConnection(pika.URLParameters(enrolled[user].amqp_url)).channel()
            links[user].confirm_delivery()
        fields = {"message_id": "m-1", "type": "samples.v1", "user_id": user, "delivery_mode": 2}
        links[user].basic_publish(
            EXCHANGE_UP, f"{user}.{kind}", body, pika.BasicProperties(**fields | properties), mandatory=True
        )

    yield publish
    for channel in links.values():
        channel.connection.close()


def depth(channel: BlockingChannel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def give_up(channel: BlockingChannel, queue: str) -> None:
    """The broker sets the next message of a queue aside."""
    before = depth(channel, QUEUE_DEAD)
    delivery, _, _ = next(channel.consume(queue, inactivity_timeout=WAIT_SECONDS))
    assert delivery is not None
    channel.basic_reject(delivery.delivery_tag, requeue=False)
    channel.cancel()
    wait_until(lambda: depth(channel, QUEUE_DEAD) == before + 1, "the message was set aside")


def letters(settings: BrokerSettings, wanted: Wanted | None = None) -> list[Letter]:
    with DeadLetters(settings) as dead:
        return [held.letter for held in dead.letters(wanted or Wanted())]


def fill(channel: BlockingChannel, count: int, *, sender: str = DEVICE, reason: str = "test") -> list[str]:
    """Puts letters there as our consumers do; returns their message ids."""
    names = [f"{reason}-{number:05d}" for number in range(count)]
    for name in names:
        headers = {"x-reason": reason, "x-origin-queue": "samples", "x-origin-user": sender}
        properties = pika.BasicProperties(
            message_id=name, type="samples.v1", user_id="admin", headers=headers, delivery_mode=2
        )
        channel.basic_publish("", QUEUE_DEAD, name.encode(), properties, mandatory=True)
    return names


@pytest.fixture
def server(server_settings: BrokerSettings) -> Iterator[Connection]:
    """A connection of a server's process."""
    connection = Connection(server_settings, name="test", metrics=BrokerMetrics(CollectorRegistry()))
    connection.start()
    yield connection
    connection.stop()


def take(server: Connection, queue: str) -> Delivery:
    """The next delivery of a queue."""
    consumer = server.consumer(queue, prefetch=1)
    delivery = consumer.get(WAIT_SECONDS)
    assert delivery is not None
    return delivery


def cli(settings: BrokerSettings, *arguments: object, answer: str | None = None) -> str:
    words = ["dead", *map(str, arguments), "--url", settings.url.get_secret_value()]
    result = CliRunner().invoke(app, words, input=answer, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


# -- what is believed ---------------------------------------------------------------------------------------------------


def test_what_a_consumer_refused_has_its_reason_origin_and_sender(
    send: Send, server: Connection, server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    send("samples", headers={"x-published-ms": 1_700_000_000_000})
    consumer = server.consumer(QUEUE_SAMPLES, prefetch=1)
    delivery = consumer.get(WAIT_SECONDS)
    assert delivery is not None
    delivery.refuse("schedule_mismatch", "another schedule")
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 1, "the letter is there")

    (letter,) = letters(server_settings)

    assert (letter.reason, letter.detail) == ("schedule_mismatch", "another schedule")
    assert (letter.origin, letter.sender, letter.by_broker) == (QUEUE_SAMPLES, DEVICE, False)
    assert letter.first_seen_at == 1_700_000_000
    assert letter.set_aside_at is not None
    assert letter.obstacle is None


@pytest.mark.parametrize("user_id", [DEVICE, None])
def test_nothing_that_a_device_wrote_is_believed(
    send: Send, server_settings: BrokerSettings, channel: BlockingChannel, user_id: str | None
) -> None:
    send("samples", headers=FORGED, user_id=user_id)
    give_up(channel, QUEUE_SAMPLES)

    (letter,) = letters(server_settings)

    assert (letter.reason, letter.detail, letter.origin) == ("rejected", None, QUEUE_SAMPLES)
    assert letter.sender == user_id
    assert (letter.by_broker, letter.replayed) == (True, 0)
    assert (letter.obstacle is None) == (user_id is not None)


@pytest.mark.parametrize("published_ms", [2**63 - 1, -(2**63), 0, True])
def test_a_time_of_publishing_that_cannot_be_neither_ends_a_connection_nor_counts(
    send: Send, server: Connection, channel: BlockingChannel, published_ms: int
) -> None:
    def lag_seconds() -> float:
        (family,) = server.metrics.consume_lag_seconds.collect()
        return sum(sample.value for sample in family.samples if sample.name.endswith("_sum"))

    send("samples", headers={"x-published-ms": published_ms})
    delivery = take(server, QUEUE_SAMPLES)
    delivery.refuse("test", "")
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 1, "it is set aside")
    assert (delivery.lag_seconds, lag_seconds()) == (None, 0)
    assert server.connected


def test_a_forged_record_of_the_same_death_changes_neither_reason_nor_origin(
    send: Send, server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    record = {"queue": "denoise", "reason": "expired", "count": 3, "time": "long ago", "exchange": "x"}
    send("denoise", headers={"x-death": [record | {"routing-keys": ["a"]}]}, expiration="1")
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 1, "the request expired")

    (letter,) = letters(server_settings)

    assert (letter.reason, letter.origin, letter.sender) == ("expired", QUEUE_DENOISE, DEVICE)


class FarFuture(pika.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Properties with a header of AMQP's type time, in a year that Python does not have."""

    def encode(self) -> list[bytes]:
        number = struct.pack(">cq", b"l", 2**62)
        return [b"".join(super().encode()).replace(number, struct.pack(">cQ", b"T", 2**63))]


def _nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for _ in range(depth):
        table = {"d": table}
    return table


@pytest.mark.parametrize("headers", [{"x-time": 2**62}, _nested(3000)], ids=["far future", "deep"])
def test_headers_that_cannot_be_read_do_not_end_the_looking(
    enrolled: dict[str, Credentials],
    server_settings: BrokerSettings,
    channel: BlockingChannel,
    headers: dict[str, Any],
) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        with pika.BlockingConnection(pika.URLParameters(enrolled[DEVICE].amqp_url)) as link:
            properties = FarFuture(user_id=DEVICE, headers=headers, expiration="1", delivery_mode=2)
            link.channel().basic_publish(EXCHANGE_UP, f"{DEVICE}.denoise", b"", properties)
    finally:
        sys.setrecursionlimit(limit)
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 1, "the request expired")

    (letter,) = letters(server_settings)

    assert (letter.reason, letter.sender) == ("expired", DEVICE)


def test_headers_that_cannot_be_read_harm_nobody_elses_messages(
    send: Send, enrolled: dict[str, Credentials], server: Connection, channel: BlockingChannel
) -> None:
    send("samples", message_id="before", user=OTHER)
    with pika.BlockingConnection(pika.URLParameters(enrolled[DEVICE].amqp_url)) as link:
        properties = FarFuture(user_id=DEVICE, message_id="hostile", headers={"x-time": 2**62})
        link.channel().basic_publish(EXCHANGE_UP, f"{DEVICE}.samples", b"", properties)
    wait_until(lambda: depth(channel, QUEUE_SAMPLES) == 2, "both are there")
    send("samples", message_id="after", user=OTHER)

    consumer = server.consumer(QUEUE_SAMPLES, prefetch=8)
    taken = [consumer.get(WAIT_SECONDS) for _ in range(3)]

    assert [delivery and delivery.message_id for delivery in taken] == ["before", "hostile", "after"]
    assert not any(delivery is None or delivery.redelivered for delivery in taken)


def test_a_device_may_not_work_on_the_dead_letters(enrolled: dict[str, Credentials]) -> None:
    with pytest.raises(ConfigError, match="without an underscore"):
        DeadLetters(BrokerSettings.from_url(enrolled[DEVICE].amqp_url))


# -- looking ------------------------------------------------------------------------------------------------------------


def test_looking_thirty_times_loses_nothing(
    channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    names = fill(channel, 40)

    for _ in range(30):
        assert sorted(letter.message_id for letter in letters(server_settings)) == names

    wait_until(lambda: depth(channel, QUEUE_DEAD) == 40, "all letters are back")


def test_thousands_of_letters_are_looked_through_one_at_a_time(
    channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    names = fill(channel, 2000)

    with DeadLetters(server_settings) as dead:
        assert dead.total == 2000
        assert sorted(held.letter.message_id for held in dead.letters(Wanted())) == names
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 2000, "all letters are back")


def test_filters_leave_what_agrees_with_all_of_them(
    send: Send, channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    fill(channel, 2, reason="one")
    fill(channel, 3, reason="two", sender=OTHER)
    send("denoise", expiration="1")
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 6, "the request expired")

    def count(**filters: str) -> int:
        return len(letters(server_settings, Wanted(None, **filters)))

    assert count(reason="one") == 2
    assert count(client="clinic-e") == 3
    assert count(device="pc-1") == 3
    assert count(queue="denoise") == 1
    assert count(queue="samples", client="clinic-d") == 2
    assert count(client="clinic-d", device="pc-2") == 0


def test_a_vhost_that_is_not_there_is_one_line(server_settings: BrokerSettings) -> None:
    elsewhere = server_settings.url.get_secret_value().replace("/collafuse", "/elsewhere")

    with pytest.raises(BrokerUnreachable, match="vhost") as caught:
        DeadLetters(BrokerSettings.from_url(elsewhere))
    assert server_settings.password.get_secret_value() not in str(caught.value)


def test_a_broker_without_the_queue_says_what_to_do(
    server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    channel.queue_delete(QUEUE_DEAD)
    try:
        with pytest.raises(BrokerUnreachable, match="collafuse broker init"):
            DeadLetters(server_settings)
    finally:
        declare(channel, FEDERATION)


# -- putting back -------------------------------------------------------------------------------------------------------


def test_a_replayed_message_is_still_its_senders(
    send: Send, server: Connection, server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    send("samples", b"batch", correlation_id="c-1", headers=FORGED)
    give_up(channel, QUEUE_SAMPLES)

    with DeadLetters(server_settings) as dead:
        for held in dead.letters(Wanted()):
            dead.replay(held)

    delivery = take(server, QUEUE_SAMPLES)
    assert (delivery.body, delivery.message_id, delivery.type) == (b"batch", "m-1", "samples.v1")
    assert (delivery.user_id, delivery.correlation_id) == ("admin", "c-1")
    assert expect_user(delivery) == ("clinic-d", "pc-1")
    assert delivery.headers["x-replayed"] == 1
    assert not {"x-reason", "x-death", "x-first-death-queue", "x-detail"} & delivery.headers.keys()
    assert depth(channel, QUEUE_DEAD) == 0


def test_a_device_that_names_another_is_judged_by_its_own_name(send: Send, server: Connection) -> None:
    send("samples", headers={"x-origin-user": OTHER})

    assert expect_user(take(server, QUEUE_SAMPLES)) == ("clinic-d", "pc-1")


def test_a_message_that_nobody_vouches_for_names_a_device_in_vain(send: Send, server: Connection) -> None:
    send("samples", user_id=None, headers={"x-origin-user": OTHER})

    with pytest.raises(Refused, match="no_user_id"):
        expect_user(take(server, QUEUE_SAMPLES))


@pytest.mark.parametrize("named", ["admin", "", 7, None, "a_b_c"])
def test_a_server_that_names_no_device_is_refused(
    channel: BlockingChannel, server: Connection, named: object
) -> None:
    properties = pika.BasicProperties(user_id="admin", headers={"x-origin-user": named})
    channel.basic_publish("", QUEUE_SAMPLES, b"", properties)

    with pytest.raises(Refused, match="not_a_device"):
        expect_user(take(server, QUEUE_SAMPLES))


def test_what_is_refused_again_keeps_its_sender_and_counts(
    send: Send, server: Connection, server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    send("samples")
    give_up(channel, QUEUE_SAMPLES)
    consumer = server.consumer(QUEUE_SAMPLES, prefetch=1)
    for number in (1, 2):
        with DeadLetters(server_settings) as dead:
            for held in dead.letters(Wanted()):
                dead.replay(held)
        delivery = consumer.get(WAIT_SECONDS)
        assert delivery is not None
        assert expect_user(delivery) == ("clinic-d", "pc-1")
        delivery.refuse("still_wrong", "as before")
        wait_until(lambda: depth(channel, QUEUE_DEAD) == 1, "it was refused again")
        (letter,) = letters(server_settings)
        assert (letter.reason, letter.sender, letter.replayed) == ("still_wrong", DEVICE, number)


def test_a_replay_that_the_broker_gives_up_again_keeps_its_sender(
    send: Send, server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    send("samples")
    give_up(channel, QUEUE_SAMPLES)
    cli(server_settings, "replay", "m-1")
    give_up(channel, QUEUE_SAMPLES)

    (letter,) = letters(server_settings)

    assert (letter.sender, letter.reason, letter.replayed) == (DEVICE, "rejected", 1)
    assert letter.by_broker


def test_a_request_gets_the_time_to_live_that_it_had_and_no_other(
    send: Send, server: Connection, server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    send("denoise", expiration="60000", message_id="short")
    give_up(channel, QUEUE_DENOISE)
    send("denoise", message_id="endless")
    give_up(channel, QUEUE_DENOISE)

    assert {letter.message_id: letter.expiration for letter in letters(server_settings)} == {
        "short": "60000",
        "endless": None,
    }
    cli(server_settings, "replay", "short", "endless")
    found = [channel.basic_get(QUEUE_DENOISE, auto_ack=True)[1] for _ in range(2)]
    assert {properties.message_id: properties.expiration for properties in found} == {
        "short": "60000",
        "endless": None,
    }


def test_a_replay_into_a_queue_that_is_gone_keeps_the_letter(
    server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    fill(channel, 2)
    channel.queue_delete(QUEUE_SAMPLES)
    try:
        with pytest.raises(Unroutable, match="no queue samples"):
            cli(server_settings, "replay", "--all")
    finally:
        declare(channel, FEDERATION)
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 2, "both letters are still there")


def test_a_replay_that_is_killed_loses_nothing(
    server_settings: BrokerSettings, channel: BlockingChannel
) -> None:
    names = fill(channel, 2000)
    command = [sys.executable, "-m", "collafuse", "broker", "dead", "replay", "--all"]
    command += ["--url", server_settings.url.get_secret_value()]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2], env=dict(os.environ)
    )
    wait_until(lambda: depth(channel, QUEUE_SAMPLES) > 50, "some were put back")
    process.kill()
    process.wait()

    put_back = depth(channel, QUEUE_SAMPLES)
    wait_until(lambda: depth(channel, QUEUE_DEAD) + put_back >= 2000, "the others are back in the queue")
    assert put_back < 2000, "it was over before it was killed"
    cli(server_settings, "replay", "--all")

    found = []
    while (got := channel.basic_get(QUEUE_SAMPLES, auto_ack=True))[0] is not None:
        found.append(got[1].message_id)
    assert set(found) == set(names)
    assert len(found) <= 2001, "at most the one in hand is there twice"
    assert depth(channel, QUEUE_DEAD) == 0


# -- the commands -------------------------------------------------------------------------------------------------------


def test_an_empty_queue_is_said_to_be_empty(server_settings: BrokerSettings) -> None:
    assert cli(server_settings, "list") == "there are no dead letters\n"
    assert json.loads(cli(server_settings, "list", "--json")) == {"total": 0, "letters": []}


def test_the_list_shows_what_is_known_and_how_many_there_are(
    channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    fill(channel, 5)

    shown = cli(server_settings, "list", "--limit", "3")
    assert "5 letters in the queue, 3 shown" in shown
    found = json.loads(cli(server_settings, "list", "--json", "--reason", "test"))
    assert found["total"] == 5
    first = found["letters"][0]
    assert first["key"] in shown
    assert (first["message_id"], first["origin"], first["sender"]) == ("test-00000", QUEUE_SAMPLES, DEVICE)
    assert first["size_bytes"] == 10
    assert first["replayable"] is True


def test_in_a_narrow_terminal_the_list_still_says_why_and_whose(
    send: Send, channel: BlockingChannel, server_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send("samples", message_id="0123456789abcdef" * 4, type="samples.v1")
    give_up(channel, QUEUE_SAMPLES)
    monkeypatch.setenv("COLUMNS", "80")
    (letter,) = letters(server_settings)

    shown = cli(server_settings, "list")
    assert {letter.key, "samples.v1", letter.reason, DEVICE} <= set(shown.split())


def test_nothing_that_a_device_wrote_reaches_the_terminal_as_it_is(
    send: Send, channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    send("samples", message_id="\x1b[2J\u202e[bold]x", headers=FORGED, type="[link=http://x]\x07")
    give_up(channel, QUEUE_SAMPLES)
    (letter,) = letters(server_settings)

    for output in (cli(server_settings, "list"), cli(server_settings, "show", letter.key)):
        assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert "[link=http://x]" in cli(server_settings, "show", letter.key)


def test_a_letter_is_shown_by_its_shapes_and_never_its_values(
    send: Send, channel: BlockingChannel, server_settings: BrokerSettings, tmp_path: Path
) -> None:
    body = encode(examples.samples())
    send("samples", body, message_id="batch")
    give_up(channel, QUEUE_SAMPLES)

    shown = cli(server_settings, "show", "batch", "--out", tmp_path / "body")

    assert "SamplesV1(" in shown
    assert "<float16 (3, 1, 2, 2)>" in shown
    assert (tmp_path / "body").read_bytes() == body
    assert depth(channel, QUEUE_DEAD) == 1


def test_what_cannot_be_decoded_is_shown_by_how_it_begins(
    send: Send, channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    send("samples", b"\xc1" + b"a" * 100)
    give_up(channel, QUEUE_SAMPLES)

    (found,) = json.loads(cli(server_settings, "show", "m-1", "--json"))["letters"]

    assert found["undecodable"].startswith("not_msgpack")
    assert found["begins"] == "c1" + " 61" * 63


def test_a_name_of_no_letter_is_an_error(server_settings: BrokerSettings) -> None:
    for command in (("show", "x"), ("replay", "x"), ("drop", "x", "--yes")):
        with pytest.raises(ConfigError, match="dead list"):
            cli(server_settings, *command)


@pytest.mark.parametrize(
    "arguments", [("replay",), ("drop",), ("replay", "x", "--all"), ("drop", "--reason", "x")]
)
def test_all_has_to_be_said(server_settings: BrokerSettings, arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="--all"):
        cli(server_settings, *arguments)


def test_all_leaves_what_would_come_back_or_is_waited_for_no_more(
    send: Send, channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    fill(channel, 1, reason="not_msgpack")
    fill(channel, 1, reason="schedule_mismatch")
    fill(channel, 1, reason="no_user_id", sender="")
    send("denoise", expiration="1")
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 4, "the request expired")

    found = json.loads(cli(server_settings, "replay", "--all", "--json"))

    assert len(found["replayed"]) == 1
    assert sorted(found["left"].values()) == [
        "its device does not wait for it any more",
        "its sender was never validated",
        "the message itself is at fault",
    ]
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 3, "the others stayed")
    found = json.loads(cli(server_settings, "replay", "--all", "--force", "--json"))
    assert (len(found["replayed"]), len(found["left"])) == (2, 1)


def test_a_named_letter_is_put_back_whatever_was_wrong_with_it(
    channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    fill(channel, 2, reason="not_msgpack")

    assert "1 letter put back" in cli(server_settings, "replay", "not_msgpack-00001")

    wait_until(lambda: depth(channel, QUEUE_SAMPLES) == 1, "it is back in its queue")
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 1, "the other stayed")


@pytest.mark.parametrize(("since_seconds", "put_back"), [(3600, 0), (1, 1)])
def test_a_request_is_put_back_while_its_device_may_wait(
    channel: BlockingChannel, server_settings: BrokerSettings, since_seconds: int, put_back: int
) -> None:
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=since_seconds)
    headers = {
        "x-reason": "delivery_limit",
        "x-origin-queue": "denoise",
        "x-origin-user": DEVICE,
        "x-published-ms": int(then.timestamp() * 1000),
    }
    properties = pika.BasicProperties(type="denoise.v1", user_id="admin", headers=headers)
    channel.basic_publish("", QUEUE_DEAD, encode(examples.denoise()), properties)

    found = json.loads(cli(server_settings, "replay", "--all", "--json"))

    assert len(found["replayed"]) == put_back


def test_dropping_asks_first_and_keeps_what_it_is_told_to_keep(
    channel: BlockingChannel, server_settings: BrokerSettings, tmp_path: Path
) -> None:
    fill(channel, 3, reason="one")
    fill(channel, 2, reason="two")
    words = ["dead", "drop", "--all", "--reason", "one", "--url", server_settings.url.get_secret_value()]
    assert CliRunner().invoke(app, words, input="n\n").exit_code == 1
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 5, "nothing was dropped")

    said = cli(server_settings, "drop", "--all", "--reason", "one", "--out", tmp_path / "kept", answer="y\n")

    assert "3 letters deleted" in said
    wait_until(lambda: depth(channel, QUEUE_DEAD) == 2, "the others are still there")
    kept = sorted(path.read_bytes() for path in (tmp_path / "kept").glob("*.body"))
    assert kept == [b"one-00000", b"one-00001", b"one-00002"]
    known = json.loads(next((tmp_path / "kept").glob("*.json")).read_text())
    assert known["reason"] == "one"


def test_a_letter_that_cannot_be_kept_is_not_dropped(
    channel: BlockingChannel, server_settings: BrokerSettings, tmp_path: Path
) -> None:
    fill(channel, 1)
    (tmp_path / "file").write_text("")

    with pytest.raises(BrokerError, match="cannot keep"):
        cli(server_settings, "drop", "--all", "--yes", "--out", tmp_path / "file")

    wait_until(lambda: depth(channel, QUEUE_DEAD) == 1, "it is still there")


def test_putting_back_and_dropping_stop_at_their_limit(
    channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    fill(channel, 10)

    cli(server_settings, "replay", "--all", "--limit", "3")
    cli(server_settings, "drop", "--all", "--yes", "--limit", "4")

    wait_until(lambda: depth(channel, QUEUE_DEAD) == 3, "three are left")
    assert depth(channel, QUEUE_SAMPLES) == 3


def test_letters_without_a_message_id_are_told_apart_by_their_keys(
    send: Send, channel: BlockingChannel, server_settings: BrokerSettings
) -> None:
    for body in (b"one", b"two"):
        send("samples", body, message_id=uuid.uuid4().hex if body == b"one" else None)
        give_up(channel, QUEUE_SAMPLES)
    first, second = letters(server_settings)

    cli(server_settings, "drop", second.key, "--yes")

    assert letters(server_settings) == [first]
