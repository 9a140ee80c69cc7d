"""What a device may do on a real broker: be itself, read its inbox, and nothing else."""

import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ProbableAuthenticationError

from broker import identities, topology
from broker.credentials import Credentials, write_credentials
from broker.errors import AlreadyEnrolled, ConfigError, InvalidName, ManagementError
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from tests.broker.attempts import ACCESS_REFUSED, attempt, sends
from tests.conftest import WAIT_SECONDS, wait_until


@pytest.fixture
def two(
    management: Management, address: BrokerSettings, node: NodeInfo
) -> Iterator[tuple[Credentials, Credentials]]:
    """Two devices of two clients."""
    names = (("clinic-a", "pc-1"), ("clinic-b", "pc-1"))
    a, b = (identities.enroll(management, *name, address=address) for name in names)
    yield a, b
    for name in names:
        identities.revoke(management, *name, vhost=node.vhost)


@pytest.mark.parametrize("kind", topology.UP_KINDS)
def test_a_device_may_send_every_kind_as_itself(two: tuple[Credentials, Credentials], kind: str) -> None:
    assert attempt(two[0], sends(topology.EXCHANGE_UP, f"clinic-a_pc-1.{kind}", "clinic-a_pc-1")) == 0


def test_a_device_may_read_its_inbox(two: tuple[Credentials, Credentials], node: NodeInfo) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
        link.channel().basic_publish(topology.EXCHANGE_DOWN, "device.clinic-a_pc-1", b"for a")

    found: list[bytes] = []

    def read(channel: BlockingChannel) -> None:
        _, _, body = next(channel.consume("inbox.clinic-a_pc-1", inactivity_timeout=WAIT_SECONDS))
        found.append(body)

    assert attempt(two[0], read) == 0
    assert found == [b"for a"]


FORBIDDEN: dict[str, Callable[[BlockingChannel], Any]] = {
    "send in another's name": sends(topology.EXCHANGE_UP, "clinic-b_pc-1.samples"),
    "send a kind that does not exist": sends(topology.EXCHANGE_UP, "clinic-a_pc-1.admin"),
    "send with a longer name": sends(topology.EXCHANGE_UP, "xclinic-a_pc-1.samples"),
    "send with more behind": sends(topology.EXCHANGE_UP, "clinic-a_pc-1.samples.x"),
    "send down": sends(topology.EXCHANGE_DOWN, "device.clinic-b_pc-1"),
    "send down to itself": sends(topology.EXCHANGE_DOWN, "device.clinic-a_pc-1"),
    "send into a queue": sends("", "samples"),
    "send into another's inbox": sends("", "inbox.clinic-b_pc-1"),
    "send to another exchange": sends("amq.topic", "clinic-a_pc-1.samples"),
    "read another's inbox": lambda channel: channel.basic_consume("inbox.clinic-b_pc-1", lambda *_: None),
    "fetch from another's inbox": lambda channel: channel.basic_get("inbox.clinic-b_pc-1"),
    "read the samples": lambda channel: channel.basic_get("samples"),
    "read the dead letters": lambda channel: channel.basic_get("dead"),
    "purge the samples": lambda channel: channel.queue_purge("samples"),
    "delete its inbox": lambda channel: channel.queue_delete("inbox.clinic-a_pc-1"),
    "delete another's inbox": lambda channel: channel.queue_delete("inbox.clinic-b_pc-1"),
    "make a queue": lambda channel: channel.queue_declare("mine", durable=True),
    "make a queue without a name": lambda channel: channel.queue_declare("", exclusive=True),
    "make an exchange": lambda channel: channel.exchange_declare("mine", durable=True),
    "bind its inbox to another's key": lambda channel: channel.queue_bind(
        "inbox.clinic-a_pc-1", topology.EXCHANGE_DOWN, "device.clinic-b_pc-1"
    ),
    "bind its inbox to what goes up": lambda channel: channel.queue_bind(
        "inbox.clinic-a_pc-1", topology.EXCHANGE_UP, "#"
    ),
    "unbind its inbox": lambda channel: channel.queue_unbind(
        "inbox.clinic-a_pc-1", topology.EXCHANGE_DOWN, "all"
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_device_may_not(two: tuple[Credentials, Credentials], what: str) -> None:
    assert attempt(two[0], FORBIDDEN[what]) == ACCESS_REFUSED


def test_a_device_may_not_claim_to_be_another(two: tuple[Credentials, Credentials]) -> None:
    precondition_failed = 406

    act = sends(topology.EXCHANGE_UP, "clinic-a_pc-1.samples", "clinic-b_pc-1")

    assert attempt(two[0], act) == precondition_failed


def test_a_device_may_not_manage_the_broker(two: tuple[Credentials, Credentials], node: NodeInfo) -> None:
    device = BrokerSettings.from_url(two[0].amqp_url)

    with (
        Management(node.management_url, device.user, device.password.get_secret_value()) as management,
        pytest.raises(ManagementError, match="lacks the tag"),
    ):
        management.users()


def test_enrolling_twice_changes_nothing_and_says_how_to_renew(
    two: tuple[Credentials, Credentials], management: Management, address: BrokerSettings
) -> None:
    with pytest.raises(AlreadyEnrolled, match="--renew"):
        identities.enroll(management, "clinic-a", "pc-1", address=address)

    assert attempt(two[0], lambda channel: channel.basic_get("inbox.clinic-a_pc-1")) == 0


def test_renewing_ends_the_old_password_and_keeps_the_inbox(
    two: tuple[Credentials, Credentials], management: Management, address: BrokerSettings, node: NodeInfo
) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
        link.channel().basic_publish(topology.EXCHANGE_DOWN, "device.clinic-a_pc-1", b"waiting")

    renewed = identities.enroll(management, "clinic-a", "pc-1", address=address, renew=True)

    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(two[0].amqp_url))
    with pika.BlockingConnection(pika.URLParameters(renewed.amqp_url)) as link:
        assert link.channel().basic_get("inbox.clinic-a_pc-1", auto_ack=True)[2] == b"waiting"


def test_renewing_a_stranger_is_an_error(management: Management, address: BrokerSettings) -> None:
    with pytest.raises(AlreadyEnrolled, match="not enrolled yet"):
        identities.enroll(management, "clinic-x", "pc-1", address=address, renew=True)

    assert not management.user_exists("clinic-x_pc-1")


def test_revoking_takes_user_and_inbox(
    management: Management, address: BrokerSettings, node: NodeInfo
) -> None:
    credentials = identities.enroll(management, "clinic-r", "pc-1", address=address)

    identities.revoke(management, "clinic-r", "pc-1", vhost=node.vhost)

    assert management.queue(node.vhost, "inbox.clinic-r_pc-1") is None
    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(credentials.amqp_url))
    identities.revoke(management, "clinic-r", "pc-1", vhost=node.vhost)


def test_an_enrolment_that_fails_half_way_leaves_no_user(node: NodeInfo, address: BrokerSettings) -> None:
    class NoTopicRights(Management):
        """The management API of a broker that fails at one step."""

        def put_topic_permission(
            self, vhost: str, user: str, exchange: str, *, write: str, read: str
        ) -> None:
            super().put_topic_permission(vhost, user, "no-such-exchange/%", write="(", read=read)

    with NoTopicRights(node.management_url, node.user, node.password) as management:
        with pytest.raises(ManagementError):
            identities.enroll(management, "clinic-h", "pc-1", address=address)

        assert not management.user_exists("clinic-h_pc-1")


@pytest.mark.parametrize("name", ["Clinic", "a_b", "a.b", "", ".*", "a|b"])
def test_a_name_that_could_mean_more_is_not_enrolled(
    management: Management, address: BrokerSettings, name: str
) -> None:
    with pytest.raises(InvalidName):
        identities.enroll(management, name, "pc-1", address=address)


def test_a_worker_may_use_the_whole_vhost_and_not_the_broker(
    management: Management, address: BrokerSettings, node: NodeInfo
) -> None:
    worker = identities.server_user(management, "denoiser", address=address)
    credentials = Credentials("", "", worker.url.get_secret_value())

    def work(channel: BlockingChannel) -> None:
        topology.declare(channel)
        channel.basic_publish(topology.EXCHANGE_DOWN, "all", b"")
        channel.basic_get("samples")

    try:
        assert attempt(credentials, work) == 0
        with (
            Management(node.management_url, worker.user, worker.password.get_secret_value()) as own,
            pytest.raises(ManagementError, match="lacks the tag"),
        ):
            own.users()
    finally:
        management.delete_user("denoiser")


EXPORTER_FORBIDDEN: dict[str, Callable[[BlockingChannel], Any]] = {
    "read the samples": lambda channel: channel.basic_get("samples"),
    "read the dead letters": lambda channel: channel.basic_get("dead"),
    "read an inbox": lambda channel: channel.basic_get("inbox.clinic-a_pc-1"),
    "read where a name is longer": lambda channel: channel.basic_get("telemetry-2"),
    "purge the samples": lambda channel: channel.queue_purge("samples"),
    "delete what it reads": lambda channel: channel.queue_delete("telemetry"),
    "make a queue": lambda channel: channel.queue_declare("mine", durable=True),
    "send down": sends(topology.EXCHANGE_DOWN, "all"),
    "send up": sends(topology.EXCHANGE_UP, "clinic-a_pc-1.telemetry"),
    "set something aside": sends("", "dead"),
}


@pytest.fixture(scope="module")
def exporter(node: NodeInfo) -> Iterator[BrokerSettings]:
    with Management(node.management_url, node.user, node.password) as management:
        yield identities.exporter_user(management, "watcher", address=BrokerSettings.from_url(node.amqp_url))
        management.delete_user("watcher")


def test_the_exporter_may_look_at_the_broker_and_read_what_devices_report(
    exporter: BrokerSettings, node: NodeInfo
) -> None:
    credentials = Credentials("", "", exporter.url.get_secret_value())
    assert attempt(credentials, lambda channel: channel.basic_get("telemetry")) == 0
    with Management(node.management_url, exporter.user, exporter.password.get_secret_value()) as own:
        assert "samples" in {queue["name"] for queue in own.queues(node.vhost)}
        with pytest.raises(ManagementError):
            own.put_user("intruder", "x")


@pytest.mark.parametrize("act", EXPORTER_FORBIDDEN.values(), ids=EXPORTER_FORBIDDEN)
def test_the_exporter_may_do_nothing_else(
    exporter: BrokerSettings, two: tuple[Credentials, Credentials], act: Callable[[BlockingChannel], Any]
) -> None:
    assert attempt(Credentials("", "", exporter.url.get_secret_value()), act) == ACCESS_REFUSED


def test_a_worker_can_never_have_a_devices_name(management: Management, address: BrokerSettings) -> None:
    with pytest.raises(InvalidName):
        identities.server_user(management, "clinic-a_pc-1", address=address)
    with pytest.raises(InvalidName):
        identities.exporter_user(management, "clinic-a_pc-1", address=address)


def test_the_list_of_devices_asks_for_what_it_shows_and_no_more(
    two: tuple[Credentials, Credentials], management: Management, node: NodeInfo
) -> None:
    """A connection in full is more than a kilobyte, and the broker works its figures out; there are thousands of them."""
    asked: dict[str, tuple[str | None, int]] = {}

    def note(answer: httpx.Response) -> None:
        what = answer.request.url.path.split("/")[2]
        asked[what] = (answer.request.url.params.get("columns"), len(answer.read()))

    def listed() -> list[tuple[str, str, bool]]:
        found = identities.enrolled(management, node.vhost)
        return [
            (one.client, one.device, one.connected) for one in found if one.client in {"clinic-a", "clinic-b"}
        ]

    management._client.event_hooks["response"].append(note)
    try:
        with pika.BlockingConnection(pika.URLParameters(two[0].amqp_url)):
            wait_until(
                lambda: listed() == [("clinic-a", "pc-1", True), ("clinic-b", "pc-1", False)],
                "one is shown as connected",
            )
    finally:
        management._client.event_hooks["response"].remove(note)
    assert {what: columns for what, (columns, _) in asked.items()} == {
        "user-limits": None,  # a limit has nothing else
        "connections": "user",
        "queues": "name,messages",
        "users": "name,password_hash",
    }
    connections = len(management._call("GET", "connections", params={"columns": "user"}).json())
    assert asked["connections"][1] <= 200 * (connections + 1)


def test_credentials_are_readable_by_their_owner_alone_and_are_settings(
    two: tuple[Credentials, Credentials], tmp_path: Path
) -> None:
    path = tmp_path / "pc-1.toml"

    write_credentials(two[0], path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tomllib.loads(path.read_text()) == {
        "client": "clinic-a",
        "device": "pc-1",
        "broker_url": two[0].amqp_url,
    }


def test_credentials_do_not_overwrite_a_file(two: tuple[Credentials, Credentials], tmp_path: Path) -> None:
    path = tmp_path / "precious.toml"
    path.write_text("precious")

    with pytest.raises(ConfigError, match="exists already"):
        write_credentials(two[0], path)
    assert path.read_text() == "precious"

    write_credentials(two[0], path, replace=True)
    assert tomllib.loads(path.read_text())["client"] == "clinic-a"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_credentials_do_not_show_their_password(two: tuple[Credentials, Credentials]) -> None:
    password = BrokerSettings.from_url(two[0].amqp_url).password.get_secret_value()

    assert password not in repr(two[0])


def test_a_broker_without_management_is_an_error_that_says_so(address: BrokerSettings) -> None:
    with (
        Management("http://127.0.0.1:1", "a", "b") as management,
        pytest.raises(ManagementError, match="does not answer"),
    ):
        identities.enroll(management, "clinic-z", "pc-1", address=address)


def test_a_management_api_whose_name_is_not_known_is_an_error_that_says_that() -> None:
    with (
        Management("http://no-such-broker.invalid:1", "a", "b") as management,
        pytest.raises(ManagementError, match=r"does not answer: its name cannot be resolved"),
    ):
        management.queues("/")


def test_queues_are_listed_with_their_depth(management: Management, node: NodeInfo) -> None:
    def names() -> set[str]:
        return {str(queue["name"]) for queue in management.queues(node.vhost)}

    wait_until(lambda: {"samples", "denoise", "dead"} <= names(), "the federation's queues are listed")
