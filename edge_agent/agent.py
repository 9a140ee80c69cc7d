"""The process on the device: one loop that computes, beside a thread that moves bytes and one that empties the outbox."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from broker.connection import Connection
from broker.consumer import Consumer
from broker.names import inbox as inbox_queue
from edge_agent import clock, status
from edge_agent.errors import JobFailed, OutboxFull, SpoolError
from edge_agent.generation import finishing, jobs, lifecycle, pool
from edge_agent.generation.budget import Planner
from edge_agent.generation.jobs import Job
from edge_agent.generation.pool_keeper import PoolKeeper
from edge_agent.heads.calibration import StepMeter
from edge_agent.heads.energy import EnergyMeter
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import inbox
from edge_agent.link.relay import WINDOW, Relay
from edge_agent.observation import Observer
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.errors import Disposition
from monitoring.metrics import EdgeMetrics

log = structlog.get_logger(__name__)

INBOX_PREFETCH = 8
_TURN_SECONDS = 0.1
_LOOK_SECONDS = 2.0
_CARRY_SECONDS = 30.0
_FULL_DISK_SECONDS = 2.0


class Duty(Protocol):
    """Something that the agent sees to now and then, in its own thread, between two images."""

    def turn(self) -> None:
        """Look whether there is something to do, and do a little of it; called every two seconds."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What an agent is made of; its maker owns and closes them."""

    settings: EdgeSettings
    state: StateDirectory
    spool: Spool
    slot: HeadSlot
    energy: EnergyMeter
    meter: StepMeter
    metrics: EdgeMetrics
    connection: Connection
    consumer: Consumer
    relay: Relay
    duties: tuple[Duty, ...]
    metrics_port: int | None


@contextlib.contextmanager
def assemble(
    settings: EdgeSettings,
    state: StateDirectory,
    connection: Connection,
    metrics: EdgeMetrics,
    metrics_port: int | None = None,
) -> Iterator[Parts]:
    """Open the spool, load the head and start the threads; all is closed again at the end.

    The caller holds the agent lock of `state`. Raises SpoolError when the spool cannot be used, EnergyUnknown when a budget of
    energy is set that nobody can keep here; a bad head and an unreachable broker are reported and lived with.
    """
    energy = EnergyMeter(settings.power_watts)
    if settings.budget_joules is not None:
        energy.require()
    with Spool(state.spool, verify=True) as spool:
        slot = HeadSlot(settings.head, settings.provider, settings.threads)
        relay = Relay(
            state.spool,
            connection.publisher(window=WINDOW),
            user=connection.user,
            connected=lambda: connection.connected,
        )
        consumer = connection.consumer(inbox_queue(connection.user), prefetch=INBOX_PREFETCH)
        meter = StepMeter(spool, energy, settings.threads)
        keeper = PoolKeeper(spool, settings, lambda: slot.facts, lambda: connection.connected, relay.wake)
        connection.start()
        relay.start()
        try:
            yield Parts(
                settings=settings,
                state=state,
                spool=spool,
                slot=slot,
                energy=energy,
                meter=meter,
                metrics=metrics,
                connection=connection,
                consumer=consumer,
                relay=relay,
                duties=(keeper,),
                metrics_port=metrics_port,
            )
        finally:
            relay.stop()
            connection.stop()


class Agent:
    """The loop: the inbox, expiry, new jobs, jobs to finish, the head's file, and what others want to know.

    parts: see `assemble`.
    stopping: set it to end `run` after the step in hand.
    """

    def __init__(self, parts: Parts, stopping: threading.Event) -> None:
        self._parts = parts
        self._spool = parts.spool
        self._stopping = stopping
        self._observer = Observer(parts.spool, parts.metrics)
        self._planner = Planner(parts.settings, parts.meter)
        self._look_at = 0.0
        self._carry_at = 0.0
        self._jobs_may_have_changed = True
        self._unobserved = True
        self._told: dict[str, Any] = {}
        self._waiting_for_room = False

    def run(self) -> None:
        """Work until told to stop. Raises SpoolError when the spool is lost; a full disk is waited for."""
        log.info("agent_started", user=self._parts.connection.user, state=str(self._parts.state.path))
        while not self._stopping.is_set():
            try:
                self._turn()
            except SpoolError as error:
                if error.disposition is not Disposition.RETRY:
                    raise
                log.warning("spool_full", error=str(error))
                self._stopping.wait(_FULL_DISK_SECONDS)
        log.info("agent_stopped")

    def _turn(self) -> None:
        if self._parts.relay.error is not None:
            raise self._parts.relay.error
        self._take_letters()
        self._look_around()
        if self._spool.changed_elsewhere() or self._jobs_may_have_changed:
            self._jobs_may_have_changed, self._unobserved = False, True
            jobs.expire(self._spool, clock.now())
            self._start_jobs()
            self._serve_from_stock()
            self._finish_jobs()

    def _take_letters(self) -> None:
        """Wait a moment for a letter, then take all that have come."""
        letter = self._parts.consumer.get(0 if self._jobs_may_have_changed else _TURN_SECONDS)
        while letter is not None and not self._stopping.is_set():
            inbox.take(self._spool, letter)
            self._jobs_may_have_changed = True
            letter = self._parts.consumer.get(0)

    def _look_around(self) -> None:
        """Now and then: the clock, the head's file, the metrics."""
        moment = time.monotonic()
        if moment >= self._carry_at:
            self._carry_at = moment + _CARRY_SECONDS
            jobs.carry_ages(self._spool, clock.now())
        if moment >= self._look_at:
            self._look_at = moment + _LOOK_SECONDS
            self._parts.slot.refresh()
            self._parts.meter.look(self._parts.slot.loaded)
            for duty in self._parts.duties:
                duty.turn()
            if self._unobserved:
                self._unobserved = False
                self._observer.look(self._spool)
            self._observer.look_at_outbox(self._spool)
            # Time alone can expire a job, and a new head can make one possible.
            self._jobs_may_have_changed = bool(jobs.unfinished(self._spool))
        self._tell()

    def _tell(self) -> None:
        """Write down what the status command cannot see for itself, when it changes."""
        parts, slot = self._parts, self._parts.slot
        facts = {
            "pid": os.getpid(),
            "metrics_port": parts.metrics_port,
            "link": {"connected": parts.connection.connected, "user": parts.connection.user},
            "head": None
            if slot.loaded is None and slot.error is None
            else {
                "identity": slot.facts.identity if slot.facts else None,
                "provider": slot.loaded.head.provider if slot.loaded else None,
                "t_cut": slot.facts.t_cut if slot.facts else None,
                "error": slot.error,
            },
            "plan": self._planner.facts(slot.facts),
        }
        if facts == self._told:
            return
        status.note(self._spool, facts)
        self._told = facts
        for provider in ("cpu", "cuda"):
            parts.metrics.head_info.labels(provider=provider).set(
                slot.loaded is not None and slot.loaded.head.provider == provider
            )

    def _start_jobs(self) -> None:
        for job in jobs.unfinished(self._spool, "accepted"):
            with structlog.contextvars.bound_contextvars(job_id=job.job_id):
                try:
                    if self._start(job):
                        self._waiting_for_room = False
                        self._parts.relay.wake()
                except JobFailed as error:
                    lifecycle.fail(self._spool, job.job_id, error)
                except OutboxFull as error:
                    if not self._waiting_for_room:
                        log.warning("job_waits_for_outbox", error=str(error))
                    self._waiting_for_room = True
                    return

    def _start(self, job: Job) -> bool:
        return lifecycle.start(
            self._spool,
            job,
            self._parts.settings,
            self._parts.slot,
            connected=self._parts.connection.connected,
            head_steps=self._planner.head_steps(job, self._parts.slot.facts),
        )

    def _serve_from_stock(self) -> None:
        """What waits for a server that cannot be reached may be in stock by now."""
        if self._parts.connection.connected or not pool.any_in_stock(self._spool):
            return
        for job in jobs.unfinished(self._spool, "requested"):
            lifecycle.serve_from_stock(self._spool, job)

    def _finish_jobs(self) -> None:
        """One after the other, and between two of them a look at the inbox."""
        for job in jobs.unfinished(self._spool, "finishing")[:1]:
            self._jobs_may_have_changed = True
            with structlog.contextvars.bound_contextvars(job_id=job.job_id):
                self._finish(job)

    def _finish(self, job: Job) -> None:
        try:
            finishing.finish(
                self._spool,
                job,
                self._parts.state,
                self._parts.slot,
                stopping=self._stopping.is_set,
                on_step=self._observe_step,
                energy=self._parts.energy,
            )
        except JobFailed as error:
            lifecycle.fail(self._spool, job.job_id, error)
        except finishing.Interrupted:
            log.info("job_left_for_later")
            return
        self._parts.metrics.job_seconds.observe(job.age_seconds(clock.now()))
        self._observer.look(self._spool)

    def _observe_step(self, images: int, seconds: float) -> None:
        self._parts.meter.note(images, seconds)
        loaded = self._parts.slot.loaded
        if loaded is not None:
            self._parts.metrics.head_step_seconds.labels(provider=loaded.head.provider).observe(seconds)
