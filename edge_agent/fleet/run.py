"""One simulation from identities to account: who answers, where everything is kept, and what is left behind."""

import contextlib
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from broker.depth import depth
from broker.management import Management
from broker.settings import BrokerSettings
from broker.topology import QUEUE_SAMPLES
from edge_agent.errors import SimulationError
from edge_agent.fleet import identities
from edge_agent.fleet.account import Account, accounts
from edge_agent.fleet.links import LinkSchedule
from edge_agent.fleet.member import Assignment
from edge_agent.fleet.simulation import Fleet, Look, Plan
from edge_agent.fleet.stand_in import StandIn
from edge_agent.settings import EdgeSettings

Answerer = Literal["server", "stand-in"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Devices:
    """What the devices of a simulation have in common.

    links: one for each device.  images: of each, of `shape` (C, H, W).  values: settings that all of them share.
    """

    links: Sequence[LinkSchedule]
    images: int = 4
    shape: tuple[int, int, int] = (1, 8, 8)
    values: dict[str, Any] = field(default_factory=dict)

    def assignments(self, credentials: Sequence[Path], folder: Path) -> list[Assignment]:
        """Give each device its identity and a state directory of its own below `folder`."""
        found = []
        for link, path in zip(self.links, credentials, strict=True):
            EdgeSettings.load(path)  # says in one line what is wrong with the file, if something is
            # As flags, for the environment may hold the operator's URL, and goes before a file.
            own = tomllib.loads(path.read_text(encoding="utf-8"))
            settings = EdgeSettings.load(**own, state=folder / path.stem, **self.values)
            found.append(Assignment(settings, link, self.images, self.shape))
        return found


@dataclass(frozen=True)
class Outcome:
    """How a simulation ended.

    drained: whether every outbox was empty, and every receipt there, within the time allowed.
    answered_by: whose receipts these were.
    bytes_per_agent: memory of an agent in a process that has the program loaded.
    accounts: by class of link, the last of them of all.
    """

    agents: int
    processes: int
    drained: bool
    answered_by: Answerer
    bytes_per_agent: float
    accounts: tuple[Account, ...]

    @property
    def all(self) -> Account:
        """Of the whole fleet."""
        return self.accounts[-1]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return asdict(self)


class Screen(Protocol):
    """Where a simulation tells how far it is."""

    def say(self, text: str) -> None:
        """A line for a person."""

    def enrolled(self, devices: int) -> None:
        """So many devices are enrolled."""

    def look(self, look: Look) -> None:
        """How the fleet stands."""


@dataclass(frozen=True)
class Place:
    """Where a simulation keeps what is on disk, and who its devices are.

    state: a folder for state directories and credentials; a temporary one if None.
    credentials: a folder of devices that are enrolled already; None to enrol some, under clients named `name-…`.
    keep: leave those enrolled.
    """

    state: Path | None
    credentials: Path | None
    keep: bool
    name: str


def simulate(
    devices: Devices,
    plan: Plan,
    place: Place,
    management: Management,
    operator: BrokerSettings,
    screen: Screen,
) -> Outcome:
    """Enrol the devices, run them through a day, open all links, count, and clean up.

    Raises SimulationError when that cannot be done as asked or a part of it fails, ManagementError when the broker cannot be
    managed, ConfigError when settings or credentials are of no use.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_workplace(place.state))
        paths = stack.enter_context(_identities(devices, place, folder, management, operator, screen))
        assignments = devices.assignments(paths, folder / "devices")
        users = [assignment.settings.broker().user for assignment in assignments]
        answered_by, stand_in = stack.enter_context(_answering(operator, users, screen.say))

        def watch(look: Look) -> None:
            if stand_in is not None and stand_in.foreign is not None:
                raise SimulationError(
                    f"the device {stand_in.foreign}, which is not of this simulation, sends samples here too, and nobody"
                    " takes them: start `collafuse worker train`, or simulate on a broker of its own"
                )
            screen.look(look)

        return _live(assignments, plan, answered_by, watch)


def _live(
    assignments: Sequence[Assignment], plan: Plan, answered_by: Answerer, watch: Callable[[Look], None]
) -> Outcome:
    with Fleet(assignments, plan, watch) as fleet:
        fleet.live_a_day()
        drained = fleet.drain()
        tallies = fleet.stop()
        return Outcome(
            agents=len(assignments),
            processes=len(fleet.pids),
            drained=drained,
            answered_by=answered_by,
            bytes_per_agent=round(fleet.bytes_per_agent),
            accounts=tuple(accounts(tallies)),
        )


@contextlib.contextmanager
def _identities(
    devices: Devices,
    place: Place,
    folder: Path,
    management: Management,
    operator: BrokerSettings,
    screen: Screen,
) -> Iterator[list[Path]]:
    if place.credentials is not None:
        yield identities.found(place.credentials, len(devices.links))
        return
    with identities.enrolled(
        management,
        operator,
        len(devices.links),
        folder / "credentials",
        name=place.name,
        keep=place.keep,
        progress=screen.enrolled,
    ) as paths:
        yield paths


@contextlib.contextmanager
def _answering(
    operator: BrokerSettings, users: Sequence[str], say: Say
) -> Iterator[tuple[Answerer, StandIn | None]]:
    """See that somebody sends receipts: the workers that take the samples, or a stand-in when there are none.

    Raises SimulationError when there is no queue of samples, or messages in it that nobody takes.
    """
    found = depth(operator, QUEUE_SAMPLES)
    if found is None:
        raise SimulationError(
            f"{operator} has no queue {QUEUE_SAMPLES}: declare the federation's with `collafuse broker init`"
        )
    if found.consumers:
        yield "server", None
        return
    if found.messages:
        raise SimulationError(
            f"{found.messages} messages wait in the queue {QUEUE_SAMPLES} and nobody takes them: start"
            " `collafuse worker train`, or simulate on a broker of its own"
        )
    say("no worker takes samples here: standing in for the server")
    with StandIn(operator, users) as stand_in:
        yield "stand-in", stand_in


@contextlib.contextmanager
def _workplace(state: Path | None) -> Iterator[Path]:
    """The directory below which everything is kept: the one named, which stays, or one that goes again.

    Raises SimulationError when it cannot be made.
    """
    if state is None:
        with tempfile.TemporaryDirectory(prefix="collafuse-fleet-") as scratch:
            yield Path(scratch)
        return
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SimulationError(f"cannot use {state}: {error.strerror}; choose another --state") from error
    yield state
