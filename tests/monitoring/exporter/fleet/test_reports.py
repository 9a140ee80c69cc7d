"""Reports that enrolled devices publish to a real broker, and what a scrape of the exporter then shows."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from uuid import uuid4

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from broker import identities, topology
from broker.codec import encode
from broker.connection import Connection
from broker.consumer import Consumer
from broker.contract.message import Message
from broker.credentials import Credentials
from broker.errors import BrokerUnreachable
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from monitoring.exporter.fleet.believed import REPORTS
from monitoring.exporter.fleet.collector import FleetCollector
from monitoring.exporter.fleet.fleet import DEVICE_SERIES_MAX, Fleet
from monitoring.exporter.fleet.reports import FleetReports
from monitoring.metrics import BrokerMetrics
from tests.broker.attempts import ACCESS_REFUSED, attempt
from tests.broker.examples import denoise
from tests.conftest import WAIT_SECONDS, wait_until
from tests.link import Link
from tests.monitoring.exporter.fleet.reports import head, report

WATCHER = "watcher"
DEVICES = 5000


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Listening:
    """An exporter's part that hears devices, on a link of its own that can be cut."""

    registry: CollectorRegistry
    reports: FleetReports
    connection: Connection
    clock: Clock
    link: Link

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def hear(self, is_heard: Callable[[], bool], what: str) -> None:
        """Take reports in until something is so."""

        def turn() -> bool:
            self.reports.take(0.05)
            return is_heard()

        wait_until(turn, what)


@dataclass
class Device:
    """An enrolled device that publishes what it is told to."""

    credentials: Credentials
    user: str

    def say(
        self, message: Message | bytes, *, type_name: str | None = None, user_id: str | None = "own"
    ) -> None:
        body = message if isinstance(message, bytes) else encode(message)
        kind = type_name or (message.type_name if isinstance(message, Message) else "telemetry.v1")
        properties = pika.BasicProperties(type=kind, user_id=self.user if user_id == "own" else user_id)
        with pika.BlockingConnection(pika.URLParameters(self.credentials.amqp_url)) as amqp:
            channel = amqp.channel()
            channel.confirm_delivery()
            key = topology.up_key(self.user, topology.QUEUE_TELEMETRY)
            channel.basic_publish(topology.EXCHANGE_UP, key, body, properties, mandatory=True)


@pytest.fixture(scope="module")
def watcher(node: NodeInfo) -> Iterator[BrokerSettings]:
    """The exporter's user, with no more rights than it is given."""
    with Management(node.management_url, node.user, node.password) as management:
        yield identities.exporter_user(management, WATCHER, address=BrokerSettings.from_url(node.amqp_url))
        management.delete_user(WATCHER)


@pytest.fixture(scope="module")
def devices(node: NodeInfo) -> Iterator[tuple[Device, Device]]:
    client = f"c{uuid4().hex[:10]}"
    address = BrokerSettings.from_url(node.amqp_url)
    with Management(node.management_url, node.user, node.password) as management:
        yield tuple(  # type: ignore[misc]  # there are two
            Device(identities.enroll(management, client, name, address=address), f"{client}_{name}")
            for name in ("d1", "d2")
        )
        for name in ("d1", "d2"):
            identities.revoke(management, client, name, vhost=node.vhost)


@pytest.fixture
def listening(
    node: NodeInfo, watcher: BrokerSettings, server_settings: BrokerSettings
) -> Iterator[Listening]:
    with ExitStack() as stack:
        link = Link(node.ports.amqp)
        stack.callback(link.cut)
        there = BrokerSettings.from_url(
            watcher.url.get_secret_value().replace(f":{node.ports.amqp}/", f":{link.port}/")
        )
        registry, clock, fleet = CollectorRegistry(), Clock(), Fleet(device_expires_seconds=7 * 86_400.0)
        connection = Connection(there, name="exporter", metrics=BrokerMetrics(registry))
        reports = FleetReports(connection, fleet, clock=clock, wall_clock=lambda: 1e9)
        registry.register(FleetCollector(fleet, clock))
        stack.enter_context(connection)
        connection.wait_connected(20.0)
        yield Listening(registry, reports, connection, clock, link)


def test_two_devices_report_and_one_falls_silent_and_goes(
    listening: Listening, devices: tuple[Device, Device]
) -> None:
    one, other = devices
    one.say(report(1, interval_seconds=60.0, gauges={"outbox_bytes": 3.0}, runs=head(version="7")))
    other.say(report(1, interval_seconds=300.0, gauges={"outbox_bytes": 4.0}, runs=head(version="8")))

    def reporting() -> float | None:
        return listening.value("collafuse_fleet_devices", state="reporting")

    listening.hear(lambda: reporting() == 2, "both devices are shown")
    assert listening.value("collafuse_fleet_outbox_bytes") == 7
    assert listening.value("collafuse_fleet_heads", head="ward", version="7", provider="cpu") == 1
    assert listening.value("collafuse_device_outbox_bytes", device=other.user) == 4
    assert listening.value("collafuse_device_last_report_timestamp_seconds", device=one.user) == 1e9

    listening.clock.seconds += 200.0
    assert reporting() == 1
    assert listening.value("collafuse_fleet_devices", state="silent") == 1
    assert listening.value("collafuse_device_reporting", device=one.user) == 0
    assert listening.value("collafuse_fleet_outbox_bytes") == 4

    one.say(report(2, counters={"jobs_completed": 2}))
    listening.hear(lambda: reporting() == 2, "it is back")
    assert listening.value("collafuse_fleet_jobs_total", outcome="completed") == 2

    listening.clock.seconds += 7 * 86_400.0 + 1
    assert reporting() == 0
    assert listening.value("collafuse_fleet_devices", state="silent") == 0
    assert listening.value("collafuse_device_reporting", device=one.user) is None
    assert listening.value("collafuse_fleet_jobs_total", outcome="completed") == 2


@pytest.fixture
def crowd(node: NodeInfo) -> Iterator[BlockingChannel]:
    """A channel that may publish in any device's name, which RabbitMQ lets nobody do without the tag for it."""
    with Management(node.management_url, node.user, node.password) as management:
        management.put_user("crowd", "crowd", tags="impersonator")
        management.put_permissions(node.vhost, "crowd", configure="^$", write=".*", read="^$")
        url = f"amqp://crowd:crowd@127.0.0.1:{node.ports.amqp}/{node.vhost}"
        with pika.BlockingConnection(pika.URLParameters(url)) as amqp:
            yield amqp.channel()
        management.delete_user("crowd")


def test_five_thousand_devices_are_heard_and_their_series_keep_to_the_budget(
    listening: Listening, crowd: BlockingChannel
) -> None:
    counted: list[float] = []

    def all_say(sequence: int) -> None:
        body = encode(
            report(
                sequence, counters={"jobs_completed": 3 * sequence}, gauges={"outbox_bytes": 2.0}, runs=head()
            )
        )
        for number in range(DEVICES):
            user = f"clinic-{number % 50}_device-{number}"
            properties = pika.BasicProperties(type="telemetry.v1", user_id=user)
            crowd.basic_publish(topology.EXCHANGE_UP, topology.up_key(user, "telemetry"), body, properties)

    for sequence in (1, 2):
        all_say(sequence)
        for number in range(DEVICES):
            assert listening.reports.take(30.0)
            if number % 1000 == 0:
                counted.append(listening.value("collafuse_fleet_jobs_total", outcome="completed") or 0.0)

    assert listening.value("collafuse_fleet_jobs_total", outcome="completed") == 3 * DEVICES
    assert counted == sorted(counted)
    assert listening.value("collafuse_fleet_devices", state="reporting") == DEVICES
    assert listening.value("collafuse_fleet_outbox_bytes") == 2 * DEVICES
    assert listening.value("collafuse_fleet_devices_unlisted") == DEVICES - DEVICE_SERIES_MAX
    own = [
        sample.labels["device"]
        for family in listening.registry.collect()
        for sample in family.samples
        if sample.name.startswith("collafuse_device_")
    ]
    assert len(set(own)) == DEVICE_SERIES_MAX
    assert len(own) <= 10 * DEVICE_SERIES_MAX


def test_what_is_no_report_is_counted_dropped_and_stops_nothing(
    listening: Listening, devices: tuple[Device, Device], server_settings: BrokerSettings
) -> None:
    one, other = devices
    one.say(b"\xc1 no msgpack")
    one.say(b"\x80")
    one.say(b"\x80", type_name="telemetry.v9")
    one.say(b"\x80", type_name="\N{SNOWMAN}" * 50)
    one.say(denoise())
    one.say(report(1), user_id=None)
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        amqp.channel().basic_publish(
            "",
            "telemetry",
            encode(report(1)),
            pika.BasicProperties(type="telemetry.v1", user_id=server_settings.user),
        )
    other.say(report(1))

    listening.hear(
        lambda: listening.value("collafuse_fleet_devices", state="reporting") == 1, "the true one is shown"
    )
    refused = {
        sample.labels["reason"]: sample.value
        for family in listening.registry.collect()
        for sample in family.samples
        if sample.name == "collafuse_fleet_reports_refused_total"
    }
    assert refused == {
        "not_msgpack": 1,
        "invalid_fields": 1,
        "unknown_version": 1,
        "unknown_type": 1,
        "wrong_type": 1,
        "no_user_id": 1,
        "not_a_device": 1,
    }
    assert listening.value("collafuse_device_reporting", device=one.user) is None
    assert listening.value("collafuse_fleet_distrusted", device=one.user, cause="refused") == 1
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        channel = amqp.channel()
        wait_until(
            lambda: channel.queue_declare("telemetry", passive=True).method.message_count == 0,
            "none of them is left",
        )
        assert channel.queue_declare("dead", passive=True).method.message_count == 0


def test_one_that_floods_is_named_and_dropped_unread_and_others_are_heard_behind_it(
    listening: Listening, devices: tuple[Device, Device], crowd: BlockingChannel
) -> None:
    liar, other = devices
    flood = int(REPORTS.most) + 500

    def sends(user: str, body: bytes, user_id: str | None) -> None:
        properties = pika.BasicProperties(type="telemetry.v1", user_id=user_id)
        crowd.basic_publish(topology.EXCHANGE_UP, topology.up_key(user, "telemetry"), body, properties)

    for number in range(flood):
        # Without a user_id the broker vouches for nobody; the key it has checked all the same.
        sends(liar.user, b"\xc1 no msgpack", liar.user if number % 2 else None)
    sends(other.user, encode(report(1, gauges={"outbox_bytes": 7.0})), other.user)
    for _ in range(flood + 1):
        assert listening.reports.take(30.0)

    assert listening.value("collafuse_device_outbox_bytes", device=other.user) == 7
    distrusted = {
        cause: listening.value("collafuse_fleet_distrusted", device=liar.user, cause=cause)
        for cause in ("flood", "refused", "figures")
    }
    assert distrusted == {"flood": 1, "refused": 1, "figures": None}
    assert listening.value("collafuse_fleet_distrusted", device="other", cause="flood") == 0
    assert listening.value("collafuse_fleet_reports_refused_total", reason="too_often") == 500

    listening.clock.seconds += 5.0
    liar.say(report(1, gauges={"outbox_bytes": 3.0}))
    listening.hear(
        lambda: listening.value("collafuse_device_outbox_bytes", device=liar.user) == 3, "it is read again"
    )


def test_a_device_cannot_report_for_another(listening: Listening, devices: tuple[Device, Device]) -> None:
    liar, other = devices
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        liar.say(report(1), user_id=other.user)
    key = topology.up_key(other.user, topology.QUEUE_TELEMETRY)
    under_its_key = attempt(
        liar.credentials, lambda channel: channel.basic_publish(topology.EXCHANGE_UP, key, encode(report(1)))
    )
    assert under_its_key == ACCESS_REFUSED

    liar.say(report(1))
    listening.hear(
        lambda: listening.value("collafuse_device_reporting", device=liar.user) == 1, "it is shown as itself"
    )
    assert listening.value("collafuse_fleet_devices", state="reporting") == 1


def test_while_the_link_is_lost_scrapes_go_on_and_what_was_said_is_heard_afterwards(
    listening: Listening, devices: tuple[Device, Device]
) -> None:
    one, other = devices
    one.say(report(1))
    listening.hear(
        lambda: listening.value("collafuse_fleet_devices", state="reporting") == 1, "the first is shown"
    )
    listening.link.refuses = True
    listening.link.cut()
    wait_until(lambda: listening.value("collafuse_connected") == 0, "the loss is shown")
    assert listening.value("collafuse_fleet_devices", state="reporting") == 1
    other.say(report(1))
    assert listening.reports.take(0.05) is False

    listening.link.refuses = False
    listening.hear(
        lambda: listening.value("collafuse_fleet_devices", state="reporting") == 2, "the second is heard"
    )
    wait_until(lambda: listening.value("collafuse_connected") == 1, "the link is shown to stand")


def test_a_second_listener_gets_nothing_says_once_what_to_do_and_takes_over_when_the_first_has_gone(
    listening: Listening,
    watcher: BrokerSettings,
    devices: tuple[Device, Device],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[float] = []

    def counted(consumer: Consumer) -> None:
        attempts.append(time.monotonic())
        consume(consumer)

    consume = Consumer._consume
    monkeypatch.setattr(Consumer, "_consume", counted)
    metrics = BrokerMetrics(CollectorRegistry())
    with capture_logs() as lines, Connection(watcher, name="second", metrics=metrics) as second:
        FleetReports(second, Fleet())
        wait_until(lambda: len(attempts) >= 4, "it has tried again and again")
        assert second.refused_with == ACCESS_REFUSED
        assert not second.connected
        devices[0].say(report(1))
        listening.hear(
            lambda: listening.value("collafuse_fleet_devices", state="reporting") == 1, "the first hears all"
        )
        with pytest.raises(BrokerUnreachable, match="only one may: end one of the two"):
            second.wait_connected(0.0)
        listening.connection.stop()
        second.wait_connected(WAIT_SECONDS)

    waits_seconds = [later - earlier for earlier, later in pairwise(attempts)]
    assert waits_seconds[0] >= 0.25
    assert waits_seconds[1] >= 0.5
    assert waits_seconds[2] >= 1.0, "never a short one by chance"
    told = [line for line in lines if line.get("connection") == "second" and line["log_level"] == "warning"]
    assert [line["event"] for line in told] == ["queue_in_use"]
    assert "end one of the two" in told[0]["what_to_do"]
