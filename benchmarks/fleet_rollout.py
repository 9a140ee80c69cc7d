"""A new head on its way to a whole fleet: signed by each client's owner, sent in pieces, probed, tried and taken into use."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.heads import DEMO, bundle, network
from benchmarks.report import Result, alone, say
from broker import identities
from broker.management import Management
from broker.names import split_user
from broker.node.local_node import LocalNode
from broker.settings import BrokerSettings
from edge_agent.fleet.identities import enrolled
from edge_agent.fleet.links import links_of
from edge_agent.fleet.member import Assignment
from edge_agent.fleet.run import Devices
from edge_agent.fleet.simulation import Fleet, Plan
from export.bundle.bundle import read_bundle
from export.bundle.keys import PrivateKey
from export.delivery.parcel import Parcel, pack
from export.delivery.post import opened
from export.delivery.progress import FAILURES
from export.delivery.rollout import Plan as RolloutPlan
from export.delivery.rollout import Rollout
from tests.edge_agent.heads.bundles import signed

PATIENCE_SECONDS = 900.0
ONE_ROLLOUT = "one rollout"


@dataclass(frozen=True)
class Sending:
    """One client's rollout: its owner's way to the broker, its devices' users, the bundle, and the rollout's file."""

    owner: BrokerSettings
    client: str
    users: tuple[str, ...]
    parcel: Parcel
    path: Path

    def run(self) -> tuple[int, int]:
        """Send it to all and wait; returns how many devices have it in use, and how many failed."""
        with opened(self.owner, self.client, with_reports=True) as post:
            plan = RolloutPlan(percent=100, wait_seconds=PATIENCE_SECONDS)
            found = Rollout(post, self.parcel, self.path).run(self.users, plan)
        return found.count("installed"), found.count(*FAILURES)


def rollout(local: LocalNode, agents: int, processes: int) -> list[Result]:
    """Deliver a head to so many connected devices, all clients at once; they have none before."""
    node = local.status().info
    assert node is not None
    key = PrivateKey.generate()
    values = {
        "head_keys": (key.public.text,),
        "trial_seconds": 1.0,
        "trial_images": 1,
        "provider": "cpu",
        "threads": 1,
    }
    address = BrokerSettings.from_url(node.amqp_url)
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as scratch,
        Management(node.management_url, node.user, node.password) as management,
        enrolled(
            management,
            address,
            agents,
            Path(scratch) / "credentials",
            name="rollout",
            keep=False,
            progress=lambda _: None,
        ) as paths,
    ):
        devices = Devices(links_of("always", agents, seed=0), images=0, values=values)
        assignments = devices.assignments(paths, Path(scratch) / "devices")
        sendings = _sendings(assignments, key, management, address, Path(scratch))
        with Fleet(assignments, Plan(1.0, processes=processes)) as fleet:
            fleet.drain()  # which opens the links, and waits for devices that have nothing to send
            say(f"a head for {agents} devices of {len(sendings)} clients")
            seconds, installed = _deliver(fleet, sendings)
            fleet.stop()
    parcel = sendings[0].parcel
    return [
        alone(
            f"a head of {len(parcel.content) / 1e3:.0f} kB in {parcel.announcement.chunks} pieces, from its sending until"
            f" {'one device alone' if agents == 1 else f'the last of {agents} devices'} has it in use",
            "s",
            [seconds],
            ONE_ROLLOUT,
        ),
        alone(f"devices that do not have it, of {agents}", "devices", [agents - installed], ONE_ROLLOUT),
    ]


def _sendings(
    assignments: Sequence[Assignment],
    key: PrivateKey,
    management: Management,
    address: BrokerSettings,
    folder: Path,
) -> list[Sending]:
    by_client: dict[str, list[str]] = defaultdict(list)
    for assignment in assignments:
        user = assignment.settings.broker().user
        by_client[split_user(user)[0]].append(user)
    made = read_bundle(bundle(network(DEMO), folder / "head.bundle"))
    found = []
    for client, users in by_client.items():
        path = folder / f"{client}.bundle"
        path.write_bytes(signed(made, key, client=client, counter=1))
        owner = identities.owner(management, client, address=address)
        parcel = pack(path, client=client, keys=(key.public.text,))
        found.append(Sending(owner, client, tuple(users), parcel, folder / f"{client}.rollout.json"))
    return found


def _deliver(fleet: Fleet, sendings: Sequence[Sending]) -> tuple[float, int]:
    """Seconds until the last device has come to its end with the head, and on how many it is in use."""
    begun = time.monotonic()
    with ThreadPoolExecutor(len(sendings)) as pool:
        ways: list[Future[tuple[int, int]]] = [pool.submit(sending.run) for sending in sendings]
        fleet.watch_until(lambda: all(way.done() for way in ways), "delivering", PATIENCE_SECONDS + 60)
        seconds = time.monotonic() - begun
        return seconds, sum(way.result()[0] for way in ways)
