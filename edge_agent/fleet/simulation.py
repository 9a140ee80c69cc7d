"""A simulated fleet from outside: its processes, its day, the opening of all links at the end, and the account."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Literal, Self

from edge_agent.errors import SimulationError
from edge_agent.fleet.account import Tally
from edge_agent.fleet.crew import Crew, Order, Report, serve
from edge_agent.fleet.links import DAY_SECONDS
from edge_agent.fleet.member import Assignment

AGENTS_PER_PROCESS = 125
START_SECONDS = 120.0
STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Plan:
    """How a day is simulated.

    duration_seconds: of the day, by the wall.
    speedup: simulated seconds in a second; a whole day in the duration unless told otherwise.
    drain_seconds: within which everything has to have arrived once all links stand.
    processes: how many; as many as AGENTS_PER_PROCESS asks for if left out.
    """

    duration_seconds: float
    speedup: float | None = None
    drain_seconds: float = 300.0
    processes: int | None = None
    log_level: str = "error"

    def crews(self, assignments: Sequence[Assignment]) -> list[Crew]:
        """Share the devices out, every class of link to every process."""
        wanted = self.processes or -(-len(assignments) // AGENTS_PER_PROCESS)
        by_class = sorted(assignments, key=lambda one: one.link.kind)
        shares = [tuple(by_class[first::wanted]) for first in range(min(wanted, len(by_class)))]
        speedup = self.speedup or DAY_SECONDS / self.duration_seconds
        return [Crew(share, speedup, self.duration_seconds, self.log_level) for share in shares]


@dataclass(frozen=True)
class Look:
    """How far a simulation is, for whoever watches. `passed_seconds` of the day, by the wall."""

    phase: str
    passed_seconds: float
    tallies: tuple[Tally, ...]

    @property
    def drained(self) -> int:
        """Devices with nothing left to send or to hear."""
        return sum(tally.drained_seconds is not None for tally in self.tallies)


Watch = Callable[[Look], None]


@dataclass(eq=False)
class _Process:
    pipe: Pipe
    process: BaseProcess
    devices: int
    tallies: tuple[Tally, ...] = ()
    bytes_per_agent: float | None = None
    ended: bool = False


@dataclass(eq=False)
class Fleet:
    """The processes of a simulated fleet, from their start to their end; a context manager.

    assignments: the devices.
    plan: how the day goes.
    watch: told now and then how it stands; may raise to end it all.
    """

    assignments: Sequence[Assignment]
    plan: Plan
    watch: Watch = field(default=lambda _: None)
    _processes: list[_Process] = field(default_factory=list)

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        for crew in self.plan.crews(self.assignments):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, crew), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(_Process(ours, process, len(crew.assignments)))
        try:
            self._until(
                lambda: all(one.bytes_per_agent is not None for one in self._processes),
                "starting",
                START_SECONDS + 0.2 * len(self.assignments),
                "the agents did not start",
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """How the devices stood when last heard of, by number."""
        return tuple(
            sorted((tally for one in self._processes for tally in one.tallies), key=lambda t: t.device)
        )

    @property
    def pids(self) -> list[int]:
        """Of its processes."""
        return [one.process.pid for one in self._processes if one.process.pid is not None]

    @property
    def bytes_per_agent(self) -> float:
        """Memory that an agent takes in a process that has the program loaded, its share of a head included."""
        whole = sum((one.bytes_per_agent or 0.0) * one.devices for one in self._processes)
        return whole / len(self.assignments)

    def live_a_day(self) -> None:
        """Let the links come and go, and images turn up, for as long as the plan says."""
        began = self._order("begin")
        end = began + self.plan.duration_seconds
        self._until(
            lambda: time.monotonic() >= end, "the day", self.plan.duration_seconds + START_SECONDS, "", began
        )

    def drain(self) -> bool:
        """Open all links and wait until everything has arrived; False when that took longer than the plan allows."""
        began = self._order("open")
        deadline = began + self.plan.drain_seconds
        self._until(
            lambda: self._all_drained() or time.monotonic() >= deadline,
            "draining",
            self.plan.drain_seconds + START_SECONDS,
            "",
            began,
        )
        return self._all_drained()

    def watch_until(self, done: Callable[[], bool], phase: str, patience_seconds: float) -> None:
        """Let the agents work on while something else is done with them. Raises SimulationError when it takes longer."""
        self._until(done, phase, patience_seconds, "")

    def stop(self) -> tuple[Tally, ...]:
        """End the processes as a service manager does; returns how their devices stood at the end."""
        self._order("stop")
        self._until(
            lambda: all(one.ended for one in self._processes),
            "stopping",
            STOP_SECONDS,
            "the agents did not stop",
        )
        return self.tallies

    def _all_drained(self) -> bool:
        tallies = self.tallies
        return len(tallies) == len(self.assignments) and all(
            tally.drained_seconds is not None for tally in tallies
        )

    def _order(self, what: Literal["begin", "open", "stop"]) -> float:
        moment = time.monotonic()
        for one in self._processes:
            one.pipe.send(Order(what, moment))
        return moment

    def _until(
        self,
        done: Callable[[], bool],
        phase: str,
        patience_seconds: float,
        otherwise: str,
        began: float | None = None,
    ) -> None:
        """Hear what the processes tell until `done`. Raises SimulationError when one fails, or time is up."""
        began = time.monotonic() if began is None else began
        while not done():
            passed_seconds = time.monotonic() - began
            if passed_seconds > patience_seconds:
                raise SimulationError(
                    f"{otherwise or phase} within {patience_seconds:.0f} s: simulate fewer --agents on this machine"
                )
            waiting = {one.pipe: one for one in self._processes if not one.ended}
            for pipe in wait(list(waiting), _LOOK_SECONDS):
                _hear(waiting[pipe])  # type: ignore[index]
            self.watch(Look(phase, passed_seconds, self.tallies))

    def _end(self) -> None:
        for one in self._processes:
            one.pipe.close()  # which tells those that still run to stop
        for one in self._processes:
            one.process.join(STOP_SECONDS)
            if one.process.is_alive():
                one.process.kill()
                one.process.join()


def _hear(one: _Process) -> None:
    try:
        report: Report = one.pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        one.process.join(5)
        raise SimulationError(
            f"a process of the fleet with {one.devices} agents ended by itself (code {one.process.exitcode}):"
            " was it killed, or out of memory? Simulate fewer --agents"
        ) from error
    if report.what == "failed":
        raise SimulationError(f"a simulated agent failed: {report.error}")
    if report.what == "ready":
        one.bytes_per_agent = report.bytes_per_agent
    else:
        one.tallies = report.tallies
        one.ended = report.what == "ended"
