"""What is found out about a broker, and what is unsafe: states that are caused on a real node, and judged."""

import dataclasses
from collections.abc import Callable, Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from broker import identities
from broker.errors import BrokerUnreachable
from broker.inspection.facts import Facts, Listener, Managed, Node, Queue
from broker.inspection.finding import Finding, Severity
from broker.inspection.findings import judge, limits
from broker.inspection.inspection import inspect
from broker.inspection.management_facts import managed_facts
from broker.management import Management
from broker.node.local_node import LocalNode, NodeInfo
from broker.settings import BrokerSettings
from broker.topology import FEDERATION, QUEUE_DEAD, QUEUE_PREFETCH, QUEUE_TELEMETRY, declare
from tests.conftest import wait_until

DEVICE = "clinic-f_pc-1"
GIGABYTE = 10**9


def look(info: NodeInfo) -> Node:
    """What the management API says of the node; it is some seconds behind."""
    (node,) = managed_facts(BrokerSettings.from_url(info.amqp_url), info.management_url).nodes
    return node


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNode]:
    """A node of these tests' own, which they make ill."""
    local = LocalNode(tmp_path_factory.mktemp("patient"))
    info = local.start()
    try:
        with pika.BlockingConnection(pika.URLParameters(info.amqp_url)) as amqp:
            declare(amqp.channel(), FEDERATION)
        local.control("set_disk_free_limit", "1GB")
        wait_until(lambda: look(info).disk_free_limit == GIGABYTE, "the node has told about itself")
        yield local
    finally:
        local.kill()


@pytest.fixture
def patient(local: LocalNode) -> NodeInfo:
    info = local.status().info
    assert info is not None
    return info


@pytest.fixture
def settings(patient: NodeInfo) -> BrokerSettings:
    return BrokerSettings.from_url(patient.amqp_url)


@pytest.fixture
def management(patient: NodeInfo) -> Iterator[Management]:
    with Management(patient.management_url, patient.user, patient.password) as management:
        yield management


@pytest.fixture
def channel(patient: NodeInfo) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(patient.amqp_url)) as amqp:
        yield amqp.channel()


@pytest.fixture
def device(management: Management, settings: BrokerSettings) -> Iterator[str]:
    """An enrolled device."""
    client, name = DEVICE.split("_")
    identities.enroll(management, client, name, address=settings)
    yield DEVICE
    identities.revoke(management, client, name, vhost=settings.vhost)


@pytest.fixture
def found(settings: BrokerSettings, patient: NodeInfo) -> Callable[[], Facts]:
    """Inspects the node."""
    return lambda: inspect(settings, patient.management_url)


def unsafe(facts: Facts) -> list[str]:
    return [finding.what for finding in judge(facts) if finding.severity is Severity.UNSAFE]


def warned(facts: Facts) -> list[str]:
    return [finding.what for finding in judge(facts) if finding.severity is Severity.WARNING]


def about(facts: Facts, subject: str) -> list[Finding]:
    return [finding for finding in judge(facts) if finding.subject == subject]


def managed(facts: Facts) -> Managed:
    assert facts.managed is not None
    return facts.managed


# -- a node in good health ----------------------------------------------------------------------------------------------


def test_nothing_is_unsafe_about_a_private_node_with_a_device(
    found: Callable[[], Facts], device: str, patient: NodeInfo
) -> None:
    facts = found()

    assert unsafe(facts) == []
    assert patient.password not in repr(facts)
    assert facts.link.version == managed(facts).version
    assert facts.link.erlang.startswith("Erlang/OTP")
    assert facts.guest is False
    assert facts.probe.passed
    assert (facts.link.encrypted, facts.link.loopback) == (False, True)
    assert set(facts.topology.values()) == {"ok"}
    assert managed(facts).clock_ahead_seconds == 0
    (node,) = managed(facts).nodes
    assert (node.name, node.running, node.memory_alarm) == ("collafuse@localhost", True, False)
    assert {"rabbitmq_management", "rabbitmq_prometheus"} <= node.plugins
    assert any("one node" in what for what in warned(facts))


def test_what_enrolment_gives_is_what_is_expected_of_a_device(
    found: Callable[[], Facts], device: str
) -> None:
    assert [finding.severity for finding in about(found(), "devices") if "rights" in finding.what] == [
        Severity.OK
    ]


def test_the_limits_are_those_of_the_broker(found: Callable[[], Facts]) -> None:
    facts = found()
    shown = limits(facts)

    assert shown["heartbeat"] == "30 s"
    assert shown["message"] == "4.19 MB passes"
    assert (
        shown["deliveries of a message"]
        == "samples 1,000,000,000, denoise 1,000,000,000, prefetch 1,000,000,000"
    )
    assert "stops at 1 GB" in shown["disk of collafuse@localhost"]
    assert facts.link.frame_max_bytes == 131_072


def test_looking_changes_nothing(
    found: Callable[[], Facts], management: Management, patient: NodeInfo
) -> None:
    def queues() -> set[str]:
        return {str(queue["name"]) for queue in management.queues(patient.vhost)}

    wait_until(lambda: {queue.name for queue in FEDERATION.queues} <= queues(), "the queues are listed")
    before, users = queues(), management.users()

    found()

    assert (queues(), management.users()) == (before, users)


# -- states that are caused ---------------------------------------------------------------------------------------------


def test_a_missing_queue_is_unsafe_and_stays_missing(
    found: Callable[[], Facts], channel: BlockingChannel
) -> None:
    channel.queue_delete(QUEUE_TELEMETRY)
    try:
        for _ in range(2):
            facts = found()
            assert facts.topology[QUEUE_TELEMETRY] == "missing"
            assert "telemetry is missing" in unsafe(facts)
        assert any("*.telemetry" in what for what in unsafe(facts))
    finally:
        declare(channel, FEDERATION)


def test_a_queue_with_other_arguments_is_unsafe(found: Callable[[], Facts], channel: BlockingChannel) -> None:
    channel.queue_delete(QUEUE_DEAD)
    channel.queue_declare(QUEUE_DEAD, durable=True, arguments={"x-queue-type": "quorum"})
    try:
        assert "dead has other arguments than ours" in unsafe(found())
    finally:
        channel.queue_delete(QUEUE_DEAD)
        declare(channel, FEDERATION)


def test_a_memory_alarm_is_unsafe_and_lets_no_message_pass(
    local: LocalNode, patient: NodeInfo, found: Callable[[], Facts]
) -> None:
    local.control("set_vm_memory_high_watermark", "absolute", "1")
    try:
        wait_until(lambda: look(patient).memory_alarm, "the alarm is on")
        facts = found()
        assert any("all publishing stands still" in what for what in unsafe(facts))
        (probed,) = about(facts, "message size")
        assert "does not pass: the broker is in alarm" in probed.what
        assert probed.do == "end the alarm", "its limit may be what it should"
    finally:
        local.control("set_vm_memory_high_watermark", "0.4")
    wait_until(lambda: not look(patient).memory_alarm, "the alarm is off")


def test_a_late_disk_alarm_is_unsafe(local: LocalNode, patient: NodeInfo, found: Callable[[], Facts]) -> None:
    local.control("set_disk_free_limit", "50MB")
    try:
        wait_until(lambda: look(patient).disk_free_limit == 50_000_000, "the limit is told")
        assert any("until 50 MB of disk are left" in what for what in unsafe(found()))
    finally:
        local.control("set_disk_free_limit", "1GB")


def test_the_user_that_everybody_knows_is_unsafe(
    found: Callable[[], Facts], management: Management, patient: NodeInfo
) -> None:
    management.put_user("guest", "guest")
    try:
        assert any("guest" in what for what in unsafe(found()))
        management.put_permissions(patient.vhost, "guest", configure=".*", write=".*", read=".*")
        assert any("guest" in what for what in unsafe(found()))
        management.put_user("guest", "another password")
        assert not any("guest" in what for what in unsafe(found()))
    finally:
        management.delete_user("guest")


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (".*", r"^inbox\.clinic-f_pc-1$"),
        (r"^collafuse\.up$", ".*"),
        (r"^collafuse\.up$", r"^inbox\.clinic-f_"),
    ],
)
def test_a_device_with_wider_rights_is_unsafe(
    found: Callable[[], Facts],
    management: Management,
    settings: BrokerSettings,
    device: str,
    write: str,
    read: str,
) -> None:
    management.put_permissions(settings.vhost, device, configure="^$", write=write, read=read)

    assert f"{device} may do more than a device may" in unsafe(found())


def test_a_device_with_wider_topic_rights_is_unsafe(
    found: Callable[[], Facts], management: Management, settings: BrokerSettings, device: str
) -> None:
    management.put_topic_permission(settings.vhost, device, "collafuse.up", write=".*", read="^$")

    assert f"{device} may do more than a device may" in unsafe(found())


def test_a_device_without_topic_rights_is_unsafe(
    local: LocalNode, found: Callable[[], Facts], device: str
) -> None:
    local.control("clear_topic_permissions", "-p", "collafuse", device)

    assert any("may publish under any name" in what for what in unsafe(found()))


def test_a_device_with_a_tag_is_unsafe(local: LocalNode, found: Callable[[], Facts], device: str) -> None:
    local.control("set_user_tags", device, "impersonator")

    assert any("has a tag" in what for what in unsafe(found()))


def test_a_device_that_may_read_elsewhere_is_unsafe(
    local: LocalNode, found: Callable[[], Facts], management: Management, device: str
) -> None:
    local.control("add_vhost", "elsewhere")
    try:
        management.put_permissions("elsewhere", device, configure="^$", write="^$", read=".*")
        assert any("may do more" in what for what in unsafe(found()))
    finally:
        local.control("delete_vhost", "elsewhere")


def test_a_device_without_rights_is_said_to_lack_them(
    local: LocalNode, found: Callable[[], Facts], device: str
) -> None:
    local.control("clear_permissions", "-p", "collafuse", device)

    assert any("lacks rights" in what for what in warned(found()))
    assert not any(device in what for what in unsafe(found()))


def test_dead_letters_are_worth_a_look(found: Callable[[], Facts], channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    channel.basic_publish("", QUEUE_DEAD, b"", pika.BasicProperties(delivery_mode=2))
    try:
        assert any("1 message in the dead-letter queue" in what for what in warned(found()))
    finally:
        channel.queue_purge(QUEUE_DEAD)


def test_queues_that_nobody_reads_are_worth_a_look_with_messages_or_without(
    found: Callable[[], Facts], channel: BlockingChannel
) -> None:
    channel.confirm_delivery()
    channel.basic_publish("", QUEUE_PREFETCH, b"", pika.BasicProperties(delivery_mode=2))
    channel.basic_consume(QUEUE_TELEMETRY, lambda *_: None)
    try:
        trainer, denoiser = about(found(), "readers")
    finally:
        channel.queue_purge(QUEUE_PREFETCH)

    assert (trainer.severity, denoiser.severity) == (Severity.WARNING, Severity.WARNING)
    assert trainer.what == "nobody reads samples; nothing waits there yet"
    assert "`collafuse worker train`" in trainer.do
    assert denoiser.what == "nobody reads denoise and prefetch; 1 message waits there"
    assert "`collafuse worker denoise`" in denoiser.do


# -- less to go by ------------------------------------------------------------------------------------------------------


def test_without_the_management_api_it_says_how_little_it_knows(settings: BrokerSettings) -> None:
    facts = inspect(settings, "http://127.0.0.1:1")

    assert facts.managed is None
    assert [finding.subject for finding in judge(facts) if finding.severity is Severity.WARNING] == [
        "readers",
        "readers",
        "readers",
        "management",
    ]
    assert unsafe(facts) == []
    assert "heartbeat" in limits(facts)


def test_whoever_is_no_administrator_is_told_what_was_not_looked_at(
    local: LocalNode, management: Management, settings: BrokerSettings, patient: NodeInfo
) -> None:
    worker = identities.server_user(management, "watcher", address=settings)
    try:
        assert inspect(worker, patient.management_url).managed is None
        local.control("set_user_tags", "watcher", "monitoring")
        facts = inspect(worker, patient.management_url)
        assert managed(facts).users is None
        assert any("users and rights could not be read" in what for what in warned(facts))
    finally:
        management.delete_user("watcher")


def test_a_device_may_not_look_at_much_and_changes_nothing(
    management: Management, settings: BrokerSettings, patient: NodeInfo
) -> None:
    credentials = identities.enroll(management, "clinic-g", "pc-1", address=settings)
    try:
        facts = inspect(BrokerSettings.from_url(credentials.amqp_url), patient.management_url)
        assert set(facts.topology.values()) == {"unknown"}
        assert facts.managed is None
    finally:
        identities.revoke(management, "clinic-g", "pc-1", vhost=settings.vhost)


def test_no_broker_is_one_line() -> None:
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1") as caught:
        inspect(BrokerSettings.from_url("amqp://a:hidden@127.0.0.1:1/x"), "http://127.0.0.1:1")

    assert "hidden" not in str(caught.value)


# -- judged without a broker --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def healthy(local: LocalNode) -> Facts:
    info = local.status().info
    assert info is not None
    return inspect(BrokerSettings.from_url(info.amqp_url), info.management_url)


def changed(facts: Facts, **values: object) -> Facts:
    return dataclasses.replace(facts, managed=dataclasses.replace(managed(facts), **values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "severity"),
    [
        ("3.9.29", "warning"),
        ("3.10.8", "ok"),
        ("3.13.7", "ok"),
        ("4.3.1", "ok"),
        ("4.4.0", "warning"),
        ("x", "warning"),
    ],
)
def test_versions_are_judged_by_the_supported_range(healthy: Facts, version: str, severity: str) -> None:
    facts = dataclasses.replace(healthy, link=dataclasses.replace(healthy.link, version=version))

    assert [finding.severity for finding in about(facts, "version")] == [severity]


@pytest.mark.parametrize(
    ("protocol", "address", "severity"),
    [
        ("amqp", "0.0.0.0", "unsafe"),
        ("amqp", "::", "unsafe"),
        ("http", "192.0.2.7", "unsafe"),
        ("amqp/ssl", "::", None),
        ("https", "::", None),
        ("amqp", "127.0.0.1", None),
        ("amqp", "::1", None),
        ("http/prometheus", "::", "warning"),
        ("clustering", "::", "warning"),
    ],
)
def test_listeners_are_judged_by_who_can_read_along(
    healthy: Facts, protocol: str, address: str, severity: str | None
) -> None:
    facts = changed(healthy, listeners=(Listener("n", protocol, address, 1),))

    assert [finding.severity for finding in about(facts, "listeners")] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("members", "online", "unsafe_words"),
    [
        (("a", "b", "c"), ("a", "b", "c"), None),
        (("a",), ("a",), "1 member where 3 nodes run"),
        (("a", "b", "c"), ("a", "b"), "lacks its members on c"),
    ],
)
def test_quorum_queues_are_judged_by_their_members(
    healthy: Facts, members: tuple[str, ...], online: tuple[str, ...], unsafe_words: str | None
) -> None:
    queue = Queue("samples", {"x-queue-type": "quorum"}, members, online)
    facts = changed(healthy, nodes=tuple(Node(name, running=True) for name in "abc"), queues=(queue,))

    assert [unsafe_words in what for what in unsafe(facts) if unsafe_words] == (
        [True] if unsafe_words else []
    )
    assert not any("one node" in what for what in warned(facts))


def test_a_node_that_is_down_or_alone_is_unsafe(healthy: Facts) -> None:
    nodes = (Node("a", running=False), Node("b", running=True, partitions=("a",)))

    found = unsafe(changed(healthy, nodes=nodes))

    assert found == ["a does not run", "b has lost sight of a"]


def test_a_node_of_which_nothing_is_known_yet_is_not_called_sound(healthy: Facts) -> None:
    facts = changed(healthy, nodes=(Node("a", running=True),))

    assert any("has not told of its memory and disk" in what for what in warned(facts))


def test_letters_that_do_not_arrive_deprecated_features_and_clocks_are_worth_a_look(healthy: Facts) -> None:
    facts = changed(
        healthy,
        queues=(Queue("denoise", {}, stuck=2),),
        deprecated=("transient_nonexcl_queues",),
        clock_ahead_seconds=-60.0,
        nodes=(Node("a", running=True, files_limit=1024, plugins=frozenset({"rabbitmq_management"})),),
    )

    for words in (
        "2 messages of denoise",
        "transient_nonexcl_queues",
        "60 s behind ours",
        "may open 1024 files",
        "serves no metrics",
    ):
        assert any(words in what for what in warned(facts)), words


def test_a_link_over_a_network_in_the_clear_is_unsafe(healthy: Facts) -> None:
    facts = dataclasses.replace(healthy, link=dataclasses.replace(healthy.link, loopback=False))

    assert any("crosses a network unencrypted" in what for what in unsafe(facts))


@pytest.mark.parametrize(
    ("days", "severities"), [(None, []), (29.0, [Severity.WARNING]), (800.0, [Severity.OK])]
)
def test_a_certificate_that_soon_expires_is_worth_a_look(
    healthy: Facts, days: float | None, severities: list[Severity]
) -> None:
    facts = dataclasses.replace(healthy, link=dataclasses.replace(healthy.link, certificate_days=days))

    assert [finding.severity for finding in about(facts, "certificate")] == severities


def test_the_worst_comes_first(healthy: Facts) -> None:
    facts = changed(healthy, listeners=(Listener("n", "amqp", "::", 1),))

    order = [finding.severity for finding in judge(facts)]
    assert order == sorted(order, key=list(Severity).index)
    assert order[0] is Severity.UNSAFE
