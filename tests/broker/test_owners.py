"""What the owner of a client's devices may do on a real broker: write to them, read their reports, and nothing else."""

import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from typer.testing import CliRunner

from broker import identities, names, topology
from broker.cli import app
from broker.credentials import Credentials
from broker.delivery import replays_of, sender_of
from broker.errors import InvalidName, NotEnrolled
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from tests.broker.attempts import ACCESS_REFUSED, attempt, sends
from tests.conftest import wait_until

DEVICES = (("clinic-a", "pc-1"), ("clinic-a", "pc-2"), ("clinic-b", "pc-1"), ("clinic", "a-pc-1"))


@pytest.fixture
def devices(
    management: Management, address: BrokerSettings, node: NodeInfo
) -> Iterator[dict[str, Credentials]]:
    """Two devices of one client, and one of each of two others, by their users."""
    yield {names.user_name(*name): identities.enroll(management, *name, address=address) for name in DEVICES}
    for name in DEVICES:
        identities.revoke(management, *name, vhost=node.vhost)


@pytest.fixture
def owner(
    devices: dict[str, Credentials], management: Management, address: BrokerSettings
) -> Iterator[Credentials]:
    """The owner of clinic-a's devices."""
    made = identities.owner(management, "clinic-a", address=address)
    yield Credentials("clinic-a", "", made.url.get_secret_value())
    management.delete_user(made.user)


def waiting(node: NodeInfo, queue: str) -> list[bytes]:
    """What is in a queue, taken out of it."""
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
        channel = link.channel()
        found = []
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(bytes(got[2]))
    return found


def assert_comes(node: NodeInfo, queue: str, bodies: set[bytes]) -> None:
    """These messages, and no others, come into a queue."""
    found: set[bytes] = set()

    def complete() -> bool:
        found.update(waiting(node, queue))
        return found >= bodies

    wait_until(complete, f"{bodies} come")
    assert found == bodies


@pytest.mark.parametrize(
    ("key", "reached"),
    [
        ("device.clinic-a_pc-2", {"clinic-a_pc-2"}),
        ("client.clinic-a", {"clinic-a_pc-1", "clinic-a_pc-2"}),
    ],
)
def test_an_owner_reaches_its_own_devices(
    owner: Credentials, node: NodeInfo, key: str, reached: set[str]
) -> None:
    assert attempt(owner, sends(topology.EXCHANGE_DOWN, key, "clinic-a__owner")) == 0

    found = {user for user in map("_".join, DEVICES) if waiting(node, names.inbox(user))}
    assert found == reached


@pytest.mark.parametrize("user", ["clinic-a_pc-1", "clinic-b_pc-1"])
def test_what_a_device_reports_reaches_the_server_and_its_own_owner_alone(
    devices: dict[str, Credentials], owner: Credentials, node: NodeInfo, user: str
) -> None:
    for queue in ("telemetry", "reports.clinic-a", "reports.clinic-b"):
        waiting(node, queue)

    with pika.BlockingConnection(pika.URLParameters(devices[user].amqp_url)) as link:
        channel = link.channel()
        channel.confirm_delivery()
        channel.basic_publish(topology.EXCHANGE_UP, f"{user}.telemetry", b"well", mandatory=True)

    read: list[bytes] = []
    act: Callable[[BlockingChannel], Any] = lambda channel: read.append(  # noqa: E731
        channel.basic_get("reports.clinic-a", auto_ack=True)[2]
    )
    assert attempt(owner, act) == 0
    assert read == [b"well" if user.startswith("clinic-a_") else None]
    assert waiting(node, "telemetry") == [b"well"]


FORBIDDEN: dict[str, Callable[[BlockingChannel], Any]] = {
    "send to another client's device": sends(topology.EXCHANGE_DOWN, "device.clinic-b_pc-1"),
    "send to a client whose name is longer": sends(topology.EXCHANGE_DOWN, "client.clinic-a-b"),
    "send to a client whose name is shorter": sends(topology.EXCHANGE_DOWN, "device.clinic_a-pc-1"),
    "send to another client": sends(topology.EXCHANGE_DOWN, "client.clinic-b"),
    "send to all": sends(topology.EXCHANGE_DOWN, "all"),
    "send where a dot is another character": sends(topology.EXCHANGE_DOWN, "clientxclinic-a"),
    "send with more behind": sends(topology.EXCHANGE_DOWN, "device.clinic-a_pc-1.more"),
    "send to a pattern": sends(topology.EXCHANGE_DOWN, "device.*"),
    "send to everything": sends(topology.EXCHANGE_DOWN, "#"),
    "send up as one of its devices": sends(topology.EXCHANGE_UP, "clinic-a_pc-1.samples"),
    "send up as itself": sends(topology.EXCHANGE_UP, "clinic-a__owner.telemetry"),
    "send into an inbox": sends("", "inbox.clinic-a_pc-1"),
    "send into another's reports": sends("", "reports.clinic-b"),
    "send into the dead letters": sends("", "dead"),
    "send to another exchange": sends("amq.topic", "client.clinic-a"),
    "read another's reports": lambda channel: channel.basic_get("reports.clinic-b"),
    "consume another's reports": lambda channel: channel.basic_consume("reports.clinic-b", lambda *_: None),
    "read one of its devices' inbox": lambda channel: channel.basic_get("inbox.clinic-a_pc-1"),
    "read another's inbox": lambda channel: channel.basic_get("inbox.clinic-b_pc-1"),
    "read the telemetry of all": lambda channel: channel.basic_get("telemetry"),
    "read the samples": lambda channel: channel.basic_get("samples"),
    "read the dead letters": lambda channel: channel.basic_get("dead"),
    "purge another's reports": lambda channel: channel.queue_purge("reports.clinic-b"),
    "delete its reports": lambda channel: channel.queue_delete("reports.clinic-a"),
    "delete an inbox": lambda channel: channel.queue_delete("inbox.clinic-a_pc-1"),
    "make a queue": lambda channel: channel.queue_declare("mine", durable=True),
    "bind another's telemetry to its reports": lambda channel: channel.queue_bind(
        "reports.clinic-a", topology.EXCHANGE_UP, "clinic-b_pc-1.telemetry"
    ),
    "bind all samples to its reports": lambda channel: channel.queue_bind(
        "reports.clinic-a", topology.EXCHANGE_UP, "*.samples"
    ),
    "bind an inbox to another's key": lambda channel: channel.queue_bind(
        "inbox.clinic-a_pc-1", topology.EXCHANGE_DOWN, "device.clinic-b_pc-1"
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_an_owner_may_not(owner: Credentials, what: str) -> None:
    assert attempt(owner, FORBIDDEN[what]) == ACCESS_REFUSED


@pytest.mark.parametrize("claimed", ["clinic-b__owner", "clinic-a_pc-1", "denoiser"])
def test_an_owner_may_not_claim_to_be_another(owner: Credentials, claimed: str) -> None:
    precondition_failed = 406

    assert attempt(owner, sends(topology.EXCHANGE_DOWN, "client.clinic-a", claimed)) == precondition_failed


def test_a_new_password_ends_the_old_one_and_keeps_the_reports(
    owner: Credentials, management: Management, address: BrokerSettings, node: NodeInfo
) -> None:
    waiting(node, "reports.clinic-a")
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
        link.channel().basic_publish(topology.EXCHANGE_UP, "clinic-a_pc-1.telemetry", b"kept")

    identities.owner(management, "clinic-a", address=address)

    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        attempt(owner, lambda _: None)
    assert waiting(node, "reports.clinic-a") == [b"kept"]


@pytest.mark.parametrize("older_form", [False, True])
def test_reports_that_are_gone_are_made_anew_for_all_devices_and_the_password_stays(
    owner: Credentials, management: Management, node: NodeInfo, older_form: bool
) -> None:
    management.delete_queue(node.vhost, "reports.clinic-a")
    if older_form:
        (queue,) = topology.reports("clinic-a", ()).queues
        arguments = {**queue.arguments, "x-expires": 10**9}
        with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
            link.channel().queue_declare(queue.name, durable=True, arguments=arguments)
    words = ["--url", node.amqp_url, "--management-url", node.management_url]

    done = CliRunner().invoke(app, ["owner", "clinic-a", "--reports", *words])

    assert done.exit_code == 0, done.output
    assert attempt(owner, sends(topology.EXCHANGE_DOWN, "client.clinic-a")) == 0
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
        for device in ("pc-1", "pc-2"):
            key = f"clinic-a_{device}.telemetry"
            link.channel().basic_publish(topology.EXCHANGE_UP, key, device.encode())
    assert_comes(node, "reports.clinic-a", {b"pc-1", b"pc-2"})


def test_reports_do_not_go_while_nobody_reads_them_and_a_new_device_brings_back_all_of_them(
    owner: Credentials, management: Management, address: BrokerSettings, node: NodeInfo
) -> None:
    found = management.queue(node.vhost, "reports.clinic-a")
    assert found is not None
    assert "x-expires" not in found["arguments"]
    management.delete_queue(node.vhost, "reports.clinic-a")

    identities.enroll(management, "clinic-a", "pc-1", address=address, renew=True)

    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
        link.channel().basic_publish(topology.EXCHANGE_UP, "clinic-a_pc-2.telemetry", b"the other")
    assert_comes(node, "reports.clinic-a", {b"the other"})


def test_reports_without_an_owner_are_not_made_anew(management: Management, node: NodeInfo) -> None:
    with pytest.raises(NotEnrolled, match="has no owner yet"):
        identities.renew_reports(management, "clinic-b", vhost=node.vhost)


@pytest.mark.parametrize("client", ["Clinic", "a_b", "a.b", "", ".*", "a|b", "a__owner"])
def test_a_name_that_could_mean_more_owns_nothing(
    management: Management, address: BrokerSettings, client: str
) -> None:
    with pytest.raises(InvalidName):
        identities.owner(management, client, address=address)


def test_an_owner_is_neither_a_device_nor_somebody_of_the_server() -> None:
    user = names.owner_name("clinic-a")

    assert names.owned_client(user) == "clinic-a"
    with pytest.raises(InvalidName):
        names.split_user(user)
    assert not names.valid_name(user)
    assert sender_of(user, {"x-origin-user": "clinic-b_pc-1"}) == user
    assert replays_of(user, {"x-replayed": 3}) == 0
    assert [
        names.owned_client(other) for other in ("clinic-a_pc-1", "denoiser", "a_b__owner", "__owner")
    ] == [None] * 4


def test_the_command_writes_what_the_owner_needs_for_its_eyes_alone(
    devices: dict[str, Credentials], management: Management, node: NodeInfo, tmp_path: Path
) -> None:
    out = tmp_path / "owner.toml"

    done = CliRunner().invoke(
        app,
        [
            "owner",
            "clinic-b",
            "--out",
            str(out),
            "--url",
            node.amqp_url,
            "--management-url",
            node.management_url,
        ],
    )

    try:
        assert done.exit_code == 0, done.output
        assert "clinic-b__owner may send heads" in done.output
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        url = tomllib.loads(out.read_text())["broker_url"]
        credentials = Credentials("", "", url)
        assert attempt(credentials, sends(topology.EXCHANGE_DOWN, "client.clinic-b")) == 0
        wait_until(lambda: waiting(node, "inbox.clinic-b_pc-1") == [b""], "the device gets it")
    finally:
        management.delete_user("clinic-b__owner")
