"""The process on the device: one loop that computes, beside a thread that moves bytes and one that empties the outbox."""

import os
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from broker.connection import Connection
from broker.consumer import Consumer
from edge_agent import clock, status
from edge_agent.errors import JobFailed, OutboxFull, SpoolError
from edge_agent.generation import finishing, jobs, lifecycle, pool
from edge_agent.generation.budget import Planner
from edge_agent.generation.jobs import Job
from edge_agent.heads.arrivals import Arrivals
from edge_agent.heads.calibration import StepMeter
from edge_agent.heads.energy import EnergyMeter
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.letterbox import Letterbox
from edge_agent.link import contract
from edge_agent.link.doorkeeper import Doorkeeper
from edge_agent.link.relay import Relay
from edge_agent.observation import Observer
from edge_agent.settings import EdgeSettings
from edge_agent.storage import quarantine
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.errors import Disposition
from monitoring.metrics import EdgeMetrics

log = structlog.get_logger(__name__)

_TURN_SECONDS = 0.1
_IDLE_TURN_SECONDS = 0.25
_LIVELY_SECONDS = 10.0
"""For so long after something has happened the agent looks often; each look wakes a processor that could sleep."""
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
    arrivals: Arrivals
    energy: EnergyMeter
    meter: StepMeter
    metrics: EdgeMetrics
    connection: Connection
    consumer: Consumer
    relay: Relay
    doorkeeper: Doorkeeper
    duties: tuple[Duty, ...]
    patient_duties: tuple[Duty, ...]
    """Of the duties, those that leave the head and the pictures alone: they are seen to in the middle of a job, too."""
    metrics_port: int | None


class Agent:
    """The loop: the inbox, expiry, new jobs, jobs to finish, the head's file, and what others want to know.

    parts: see `edge_agent.assembly`.
    stopping: set it to end `run` after the step in hand.
    """

    def __init__(self, parts: Parts, stopping: threading.Event) -> None:
        self.beats = 0
        """Rises while the agent's thread gets on, within a job too."""
        self._parts = parts
        self._spool = parts.spool
        self._stopping = stopping
        self._observer = Observer(parts.spool, parts.metrics, parts.settings)
        self._planner = Planner(parts.settings, parts.meter)
        self._letterbox = Letterbox(parts.spool, parts.consumer, parts.arrivals, parts.connection.user)
        self._look_at = 0.0
        self._lively_until = 0.0
        self._carry_at = 0.0
        self._jobs_may_have_changed = True
        self._unobserved = True
        self._told: dict[str, Any] = {}
        self._waiting_for_room = False
        self._obstacles: dict[str, str] = {}

    @property
    def on_trial(self) -> bool:
        """Whether the head in use is on trial."""
        return self._parts.slot.on_trial

    def run(self) -> None:
        """Work until told to stop. Raises SpoolError when the spool is lost; a full disk, or a busy spool, is waited for."""
        log.info("agent_started", user=self._parts.connection.user, state=str(self._parts.state.path))
        while not self._stopping.is_set():
            try:
                self.turn()
            except SpoolError as error:
                if error.disposition is not Disposition.RETRY:
                    raise
                log.warning(error.event, error=str(error))
                self._stopping.wait(_FULL_DISK_SECONDS)
        log.info("agent_stopped")

    def turn(self, wait_seconds: float | None = None) -> None:
        """Do what there is to do, or wait so long for a letter; `run` does nothing else. Raises SpoolError.

        wait_seconds: left out, it is short while something happens, and longer when nothing has for a while.

        Always in the thread that made the parts.
        """
        self.beats += 1
        if self._parts.relay.error is not None:
            raise self._parts.relay.error
        try:
            self._take_letters(self._patience_seconds() if wait_seconds is None else wait_seconds)
        except SpoolError as error:
            if error.disposition is Disposition.RETRY:
                self._look_around()  # housekeeping, too, which makes room on a full disk
            raise
        self._look_around()
        changed_elsewhere = self._spool.changed_elsewhere()
        if changed_elsewhere:
            self._parts.relay.wake()
        if changed_elsewhere or self._jobs_may_have_changed:
            self._lively_until = time.monotonic() + _LIVELY_SECONDS
            self._jobs_may_have_changed, self._unobserved = False, True
            jobs.expire(self._spool, clock.now())
            self._start_jobs()
            self._serve_from_stock()
            self._finish_jobs()
        elif self._lively_until and time.monotonic() >= self._lively_until:
            self._lively_until = 0.0
            self._rest()

    def _rest(self) -> None:
        """Nothing has happened for a while: what the head keeps for its next batch, others may need more."""
        loaded = self._parts.slot.loaded
        if loaded is not None:
            loaded.head.rest()

    def _patience_seconds(self) -> float:
        return _TURN_SECONDS if time.monotonic() < self._lively_until else _IDLE_TURN_SECONDS

    def _take_letters(self, wait_seconds: float) -> None:
        """Wait a moment for a letter, then take all that have come; one that cannot be kept now is tried again next turn."""
        while not self._stopping.is_set():
            if not self._letterbox.take(0 if self._jobs_may_have_changed else wait_seconds):
                return
            self._jobs_may_have_changed = True

    def _look_around(self) -> None:
        """Now and then: the clock, the head's file, the metrics."""
        moment = time.monotonic()
        if moment >= self._carry_at:
            self._carry_at = moment + _CARRY_SECONDS
            jobs.carry_ages(self._spool, clock.now())
            contract.carry_age(self._spool, clock.now())
        if moment >= self._look_at:
            self._look_at = moment + _LOOK_SECONDS
            self._parts.slot.refresh()
            quarantine.follow_up(self._parts.state)
            self._parts.meter.look(self._parts.slot.loaded)
            for duty in self._parts.duties:
                self._see_to(duty)
            self._letterbox.take_set_by()  # housekeeping may have made room
            if self._unobserved:
                self._unobserved = False
                self._observer.look(self._spool)
            self._observer.look_at_outbox(self._spool)
            self._observer.look_at_heads(self._spool, self._parts.slot)
            # Time alone can expire a job, and a new head can make one possible.
            self._jobs_may_have_changed = bool(jobs.unfinished(self._spool))
        self._tell()

    def _see_to(self, duty: Duty) -> None:
        """One duty's turn; that a file is in its way keeps no other from being seen to."""
        name = type(duty).__name__
        try:
            duty.turn()
        except OSError as error:
            if self._obstacles.get(name) != str(error):
                log.error("duty_failed", duty=name, error=str(error))  # noqa: TRY400 - the disk's fault, in one line
            self._obstacles[name] = str(error)
        else:
            self._obstacles.pop(name, None)

    def _tell(self) -> None:
        """Write down what the status command cannot see for itself, when it changes."""
        parts, slot = self._parts, self._parts.slot
        facts = {
            "pid": os.getpid(),
            "metrics_port": parts.metrics_port,
            "link": {
                "connected": parts.connection.connected,
                "user": parts.connection.user,
                "closed_until": parts.doorkeeper.closed_until,
                "metered": parts.settings.metered,
                "bytes_per_second": parts.settings.bytes_per_second,
            },
            "head": None
            if slot.loaded is None and slot.error is None
            else {
                "identity": slot.facts.identity if slot.facts else None,
                "provider": slot.loaded.head.provider if slot.loaded else None,
                "fallback": slot.loaded.head.fallback if slot.loaded else None,
                "t_cut": slot.facts.t_cut if slot.facts else None,
                "delivered": slot.delivered is not None,
                "schedule_steps": slot.facts.schedule.T if slot.facts else None,
                "error": slot.error,
            },
            "plan": self._planner.facts(slot.facts),
        }
        if facts == self._told:
            return
        status.note(self._spool, facts)
        self._told = facts
        parts.metrics.head_fallback.set(slot.loaded is not None and slot.loaded.head.fallback is not None)
        parts.relay.wake()  # the link may be back
        for provider in ("cpu", "cuda"):
            parts.metrics.head_info.labels(provider=provider).set(
                slot.loaded is not None and slot.loaded.head.provider == provider
            )

    def _start_jobs(self) -> None:
        """Begin with what was accepted. One that finds no room in the outbox holds up only those that need room there too."""
        no_room = False
        for job in jobs.unfinished(self._spool, "accepted"):
            with structlog.contextvars.bound_contextvars(job_id=job.job_id):
                try:
                    if self._start(job, may_ask=not no_room):
                        self._parts.relay.wake()
                except JobFailed as error:
                    lifecycle.fail(self._spool, job.job_id, error)
                except OutboxFull as error:
                    if not self._waiting_for_room:
                        log.warning("job_waits_for_outbox", error=str(error))
                    self._waiting_for_room = no_room = True
        self._waiting_for_room = no_room

    def _start(self, job: Job, *, may_ask: bool) -> bool:
        return lifecycle.start(
            self._spool,
            job,
            self._parts.settings,
            self._parts.slot,
            connected=self._parts.connection.connected,
            may_ask=may_ask,
            head_steps=self._planner.head_steps(job, self._parts.slot.facts),
        )

    def _serve_from_stock(self) -> None:
        """What waits for a server that cannot be reached may be in stock by now."""
        if self._parts.connection.connected or not pool.any_in_stock(self._spool):
            return
        lifecycle.serve_waiting_from_stock(self._spool)

    def _finish_jobs(self) -> None:
        """One after the other, and between two of them a look at everything; `_breathe` is the look in the middle of one."""
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
                between=self._breathe,
                energy=self._parts.energy,
            )
        except JobFailed as error:
            lifecycle.fail(self._spool, job.job_id, error)
        except finishing.Interrupted:
            log.info("job_left_for_later")
            return
        self._parts.metrics.job_seconds.observe(job.age_seconds(clock.now()))
        self._observer.look(self._spool)

    def _breathe(self) -> None:
        """In the middle of a job: letters, requests, and the duties that do not touch the head."""
        try:
            self._take_letters(0)
            jobs.expire(self._spool, clock.now())
            self._start_jobs()
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + _LOOK_SECONDS
                for duty in self._parts.patient_duties:
                    duty.turn()
                self._letterbox.take_set_by()
                self._observer.look_at_outbox(self._spool)
            self._tell()
        except SpoolError as error:
            if error.disposition is not Disposition.RETRY:
                raise
            log.warning(error.event, error=str(error))

    def _observe_step(self, images: int, seconds: float) -> None:
        self.beats += 1
        self._parts.meter.note(images, seconds)
        loaded = self._parts.slot.loaded
        if loaded is not None:
            self._parts.metrics.head_step_seconds.labels(provider=loaded.head.provider).observe(seconds)
