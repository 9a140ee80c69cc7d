"""A simulated fleet of real agents over a real broker."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from broker.credentials import write_credentials
from broker.depth import Depth, depth
from broker.identities import enroll
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from edge_agent.errors import SimulationError
from edge_agent.fleet.links import links_of
from edge_agent.fleet.run import Devices, Place, simulate
from edge_agent.fleet.simulation import Fleet, Look, Plan
from edge_agent.storage.spool import Spool
from tests.conftest import processes_of, wait_until
from tests.edge_agent.agents import collafuse
from tests.edge_agent.conftest import Device

PLACE = Place(state=None, credentials=None, keep=False, name="sim")


class Quiet:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.looks: list[Look] = []
        self.devices = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def enrolled(self, devices: int) -> None:
        self.devices = devices

    def look(self, look: Look) -> None:
        self.looks.append(look)


@pytest.fixture
def management(node: NodeInfo) -> Iterator[Management]:
    with Management(node.management_url, node.user, node.password) as management:
        yield management


def test_mixed_links_lose_nothing_and_every_outbox_drains(
    management: Management, server_settings: BrokerSettings
) -> None:
    screen = Quiet()
    devices = Devices(links_of("mixed", 20, seed=4), images=3)

    outcome = simulate(
        devices,
        Plan(duration_seconds=12, drain_seconds=60, processes=2),
        PLACE,
        management,
        server_settings,
        screen,
    )

    assert outcome.drained
    assert outcome.answered_by == "stand-in"
    by_link = {one.link: one for one in outcome.accounts}
    assert {link: one.devices for link, one in by_link.items()} == {
        "always": 5,
        "hourly": 5,
        "nightly": 5,
        "flaky": 5,
        "all": 20,
    }
    for one in outcome.accounts:
        assert (one.attempted, one.acknowledged, one.stored) == (one.devices * 3,) * 3
        assert (one.lost, one.waiting, one.refused) == (0, 0, 0)
        assert one.drained_devices == one.devices
    # The links did come and go: otherwise this has shown nothing.
    assert by_link["always"].reconnected == 5
    assert by_link["nightly"].reconnected == 10
    assert by_link["flaky"].reconnected > 20
    assert by_link["hourly"].reconnected > 50
    day = [look for look in screen.looks if look.phase == "the day"]
    assert max(sum(tally.waiting for tally in look.tallies) for look in day) > 0
    assert screen.devices == 20
    assert screen.said == ["no worker takes samples here: standing in for the server"]


def test_devices_are_revoked_at_the_end_and_leave_nothing(
    management: Management, server_settings: BrokerSettings, tmp_path: Path
) -> None:
    place = Place(state=tmp_path, credentials=None, keep=False, name="sim-gone")
    devices = Devices(links_of("always", 3, seed=0), images=1)

    outcome = simulate(
        devices, Plan(duration_seconds=0.5, drain_seconds=20), place, management, server_settings, Quiet()
    )

    assert outcome.drained
    assert not [user for user in management.users() if user.startswith("sim-gone")]
    queues = [queue["name"] for queue in management.queues(server_settings.vhost)]
    assert not [name for name in queues if "sim-gone" in name]
    assert not list((tmp_path / "credentials").iterdir())
    assert len(list((tmp_path / "devices").iterdir())) == 3


def test_kept_devices_can_be_simulated_again_and_release_nothing_twice(
    management: Management, server_settings: BrokerSettings, tmp_path: Path
) -> None:
    devices = Devices(links_of("always", 2, seed=0), images=2)
    first = Place(state=tmp_path, credentials=None, keep=True, name="sim-kept")
    again = Place(state=tmp_path, credentials=tmp_path / "credentials", keep=True, name="")
    day = Plan(duration_seconds=0.5, drain_seconds=20)

    before = simulate(devices, day, first, management, server_settings, Quiet())
    after = simulate(devices, day, again, management, server_settings, Quiet())

    assert (before.all.attempted, after.all.attempted) == (4, 0)
    for spool_path in (tmp_path / "devices").glob("*/spool.sqlite3"):
        with Spool(spool_path) as spool:
            assert spool.rows("SELECT count(*) FROM ledger")[0][0] == 2


def test_what_waits_for_a_server_that_is_away_is_not_taken_over(
    node: NodeInfo, management: Management, server_settings: BrokerSettings
) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        amqp.channel().basic_publish("", "samples", b"of somebody else")
    wait_until(lambda: depth(server_settings, "samples") == Depth(1, 0), "the message is in the queue")
    devices = Devices(links_of("always", 1, seed=0))

    with pytest.raises(SimulationError, match="1 messages wait in the queue samples and nobody takes them"):
        simulate(devices, Plan(duration_seconds=1), PLACE, management, server_settings, Quiet())

    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        assert amqp.channel().basic_get("samples")[2] == b"of somebody else"


def test_the_samples_of_other_devices_stay_in_the_queue(
    node: NodeInfo, management: Management, server_settings: BrokerSettings, device: Device
) -> None:
    class Stranger(Quiet):
        """A device that is not of the fleet, and sends something in the middle of the day."""

        def look(self, look: Look) -> None:
            if look.phase == "the day" and not self.looks:
                with pika.BlockingConnection(pika.URLParameters(device.url)) as amqp:
                    properties = pika.BasicProperties(user_id=device.user, type="samples.v1")
                    key = f"{device.user}.samples"
                    amqp.channel().basic_publish("collafuse.up", key, b"theirs", properties)
                self.looks.append(look)

    devices = Devices(links_of("always", 1, seed=0), images=0)

    with pytest.raises(SimulationError, match=f"the device {device.user}, which is not of this simulation"):
        simulate(devices, Plan(duration_seconds=20), PLACE, management, server_settings, Stranger())

    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        found = amqp.channel()
        wait_until(lambda: found.basic_get("samples")[2] == b"theirs", "the message is back in the queue")


def test_a_killed_process_of_the_fleet_is_an_error_and_the_others_end(
    node: NodeInfo, management: Management, server_settings: BrokerSettings, tmp_path: Path
) -> None:
    devices = Devices(links_of("always", 4, seed=0), images=0)
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.toml")
        credentials = enroll(management, "sim-kill", f"d{number}", address=server_settings)
        write_credentials(credentials, paths[-1])
    assignments = devices.assignments(paths, tmp_path / "devices")

    pids: list[int] = []

    def live() -> None:
        with Fleet(assignments, Plan(duration_seconds=60, processes=2)) as fleet:
            pids.extend(fleet.pids)
            os.kill(pids[0], signal.SIGKILL)
            fleet.live_a_day()

    with pytest.raises(SimulationError, match=r"ended by itself \(code -9\)"):
        live()

    assert len(pids) == 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--links", "weekly"], "there are no links of class 'weekly'"),
        (["--shape", "8x8"], "'8x8' is no shape of an image"),
        (["--keep"], "--keep needs --state"),
        (["--credentials", "nowhere"], "nowhere holds the credentials of 0 devices and 100 are wanted"),
        (["--log-level", "loud"], "unknown log level 'loud'"),
        (["--name", "Not_A_Name"], "No such option"),
    ],
)
def test_what_makes_no_sense_is_one_line(node: NodeInfo, arguments: list[str], message: str) -> None:
    done = collafuse(
        "edge",
        "simulate",
        "--management-url",
        node.management_url,
        *arguments,
        COLLAFUSE_BROKER_URL=node.amqp_url,
    )

    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_broker_it_says_what_to_do(tmp_path: Path) -> None:
    done = collafuse("edge", "simulate", "--dir", tmp_path / "none")

    assert done.returncode == 1
    assert done.stderr.startswith("error: no broker: set COLLAFUSE_BROKER_URL")
    assert done.stderr.count("\n") == 1


def test_the_command_prints_its_account(node: NodeInfo, server_settings: BrokerSettings) -> None:
    done = collafuse(
        *("edge", "simulate", "--agents", 2, "--links", "flaky", "--images", 1, "--duration", 1, "--json"),
        *("--management-url", node.management_url),
        COLLAFUSE_BROKER_URL=node.amqp_url,
    )

    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["drained"] is True
    assert printed["agents"] == 2
    assert [one["link"] for one in printed["accounts"]] == ["flaky", "all"]
    assert printed["accounts"][-1]["stored"] == 2
    assert not processes_of(Path("collafuse-fleet-"))
