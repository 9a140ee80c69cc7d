"""A process of a simulated fleet: many agents, turned one after the other by a single thread.

An agent of its own process waits for letters; here nobody waits for one of them, and the thread rests between two rounds.
"""

import contextlib
import resource
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry

from edge_agent.agent import Agent
from edge_agent.assembly import assemble
from edge_agent.errors import SimulationError
from edge_agent.fleet.account import Tally
from edge_agent.fleet.member import Assignment, Member
from edge_agent.fleet.memory import pss_bytes
from edge_agent.heads.head import Head
from edge_agent.settings import EdgeSettings
from edge_agent.storage.state import agent_lock, open_state
from monitoring import logs
from monitoring.errors import CollafuseError
from monitoring.metrics import EdgeMetrics

ROUND_SECONDS = 0.2
TELL_SECONDS = 0.5
DESCRIPTORS_PER_AGENT = 24
LONGEST_WAIT_SECONDS = 30.0
PROBES_AT_ONCE = 2
"""Each probe of a new head is a process. A device has one at a time; a hundred on one machine would starve each other."""


@dataclass(frozen=True)
class Crew:
    """What a process is told at its start.

    speedup: simulated seconds in a second.  duration_seconds: of the day, by the wall.  log_level: of what its agents log to
    stderr.
    """

    assignments: tuple[Assignment, ...]
    speedup: float
    duration_seconds: float
    log_level: str = "error"


@dataclass(frozen=True)
class Report:
    """What a process tells: that it is ready, how its devices stand, that it has ended, or why it failed."""

    what: Literal["ready", "tally", "ended", "failed"]
    tallies: tuple[Tally, ...] = ()
    bytes_per_agent: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Order:
    """What a process is told to do, and since when, on the machine's monotonic clock."""

    what: Literal["begin", "open", "stop"]
    at: float


class SharedHeads:
    """Heads that the agents of this process have in common: each bundle is loaded once, whoever's copy of it comes first."""

    def __init__(self) -> None:
        self.turnstile = threading.Semaphore(PROBES_AT_ONCE)
        self._heads: dict[str, Head] = {}

    def open(self, settings: EdgeSettings, path: Path, bundle: str) -> Head:
        """The head in the file at `path`, whose SHA-256 is `bundle`. Raises HeadError."""
        if bundle not in self._heads:
            self._heads[bundle] = Head.load(
                path, settings.provider, settings.threads, settings.provider_fallback
            )
        return self._heads[bundle]


def serve(pipe: Pipe, crew: Crew) -> None:
    """Be these devices until told to stop, or until whoever tells is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the simulation is told, and tells us
    logs.configure("fleet", level=crew.log_level)
    try:
        with contextlib.suppress(EOFError, BrokenPipeError):
            _serve(pipe, crew)
    except CollafuseError as error:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(Report("failed", error=str(error)))


def _serve(pipe: Pipe, crew: Crew) -> None:
    _make_room_for_files(len(crew.assignments))
    before_bytes = pss_bytes()
    heads = SharedHeads()
    with contextlib.ExitStack() as stack:
        members = [_board(stack, assignment, heads, crew) for assignment in crew.assignments]
        own_bytes = (pss_bytes() - before_bytes) / len(members)
        pipe.send(Report("ready", bytes_per_agent=own_bytes))
        tallies = _work(pipe, members, crew)
    pipe.send(Report("ended", tallies))


def _board(stack: contextlib.ExitStack, assignment: Assignment, heads: SharedHeads, crew: Crew) -> Member:
    settings = assignment.settings
    state = open_state(settings.state)
    stack.enter_context(agent_lock(state))
    connection = assignment.connection(max(1.0, LONGEST_WAIT_SECONDS / crew.speedup))
    parts = stack.enter_context(
        assemble(
            settings,
            state,
            connection,
            EdgeMetrics(CollectorRegistry()),
            open_head=partial(heads.open, settings),
            turnstile=heads.turnstile,
        )
    )
    return Member(assignment, parts, Agent(parts, threading.Event()), state.secret())


def _work(pipe: Pipe, members: list[Member], crew: Crew) -> tuple[Tally, ...]:
    """Turn all of them until the order to stop; returns how they stand then."""
    orders: dict[str, float] = {}
    tell_at = 0.0
    while "stop" not in orders:
        began = time.monotonic()
        second, share = _world(orders, crew, began)
        for member in members:
            member.turn(second, share)
        if began >= tell_at:
            tell_at = began + TELL_SECONDS
            pipe.send(Report("tally", _look(members, orders)))
        if pipe.poll(max(0.0, began + ROUND_SECONDS - time.monotonic())):
            order: Order = pipe.recv()
            orders[order.what] = order.at
    return _look(members, orders)


def _look(members: list[Member], orders: dict[str, float]) -> tuple[Tally, ...]:
    return tuple(member.look(orders.get("open")) for member in members)


def _world(orders: dict[str, float], crew: Crew, now: float) -> tuple[float, float]:
    """The simulated second, and the share of the day that has passed; it stands still at midnight until the order to begin."""
    if "open" in orders:
        return float("inf"), 1.0
    passed_seconds = max(0.0, now - orders["begin"]) if "begin" in orders else 0.0
    return passed_seconds * crew.speedup, min(1.0, passed_seconds / crew.duration_seconds)


def _make_room_for_files(agents: int) -> None:
    """Raise the limit of open files as far as these agents need."""
    needed = 256 + agents * DESCRIPTORS_PER_AGENT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise SimulationError(
                f"{agents} agents in one process need {needed} open files and this machine allows {hard}: give more --processes"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
