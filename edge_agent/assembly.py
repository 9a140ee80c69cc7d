"""Putting an agent together from its settings: what it is made of, and what it sees to."""

import contextlib
import threading
from collections.abc import Iterator
from functools import partial

import structlog

from broker.connection import Connection
from broker.names import inbox as inbox_queue
from broker.names import split_user
from edge_agent import clock
from edge_agent.agent import Duty, Parts
from edge_agent.errors import JournalUnusable
from edge_agent.generation import jobs, pool_requests
from edge_agent.generation.pool_keeper import PoolKeeper
from edge_agent.generation.reasking import Reasker
from edge_agent.heads.arrivals import Arrivals
from edge_agent.heads.calibration import StepMeter
from edge_agent.heads.energy import EnergyMeter
from edge_agent.heads.head_slot import HeadSlot, OpenHead
from edge_agent.heads.judge import Judge
from edge_agent.heads.trial import Terms
from edge_agent.heads.updater import HeadUpdater
from edge_agent.letterbox import PREFETCH
from edge_agent.link.doorkeeper import Doorkeeper
from edge_agent.link.outbox import Entry
from edge_agent.link.relay import WINDOW, Relay
from edge_agent.link.windows import Windows
from edge_agent.settings import EdgeSettings
from edge_agent.storage.housekeeping import Housekeeper, Keeping
from edge_agent.storage.reconciliation import reconcile
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from edge_agent.telemetry import Reporter
from monitoring.metrics import EdgeMetrics

log = structlog.get_logger(__name__)

_GOODBYE_SECONDS = 1.0
"""How long a stopping agent waits for the broker; what is in flight stays in the outbox."""


@contextlib.contextmanager
def assemble(
    settings: EdgeSettings,
    state: StateDirectory,
    connection: Connection,
    metrics: EdgeMetrics,
    metrics_port: int | None = None,
    *,
    open_head: OpenHead | None = None,
    turnstile: threading.Semaphore | None = None,
) -> Iterator[Parts]:
    """Open the spool, load the head and start the threads; all is closed again at the end.

    The caller holds the agent lock of `state`; `open_head` is told of in `HeadSlot`, `turnstile` in `HeadUpdater`. A bad
    head and an unreachable broker are reported and lived with.

    Raises SpoolError when the spool cannot be used (SpoolDamaged when it is to be set aside), WindowError when a connect window
    makes no sense, EnergyUnknown when a budget of energy is set that nobody can keep here.
    """
    energy = EnergyMeter(settings.power_watts)
    if settings.budget_joules is not None:
        energy.require()
    windows = Windows.parse(settings.windows)
    with Spool(state.spool, verify=True) as spool:
        _reconcile(spool)
        judge = Judge(split_user(connection.user)[0], settings.head_keys)
        slot = HeadSlot(
            settings.head,
            settings.provider,
            settings.threads,
            settings.provider_fallback,
            partial(judge.admit_own, spool),
            open_head,
        )
        updater = _updater(settings, state, spool, slot, judge, turnstile)
        relay = Relay(
            state.spool,
            connection.publisher(window=WINDOW),
            user=connection.user,
            connected=lambda: connection.connected,
            remaining_seconds=_remaining_seconds,
            bytes_per_second=settings.bytes_per_second,
            metered=settings.metered,
        )
        doorkeeper = Doorkeeper(windows, connection)
        consumer = connection.consumer(inbox_queue(connection.user), prefetch=PREFETCH)
        patient_duties: tuple[Duty, ...] = (
            doorkeeper,
            Reasker(spool, settings, lambda: connection.connected),
            PoolKeeper(
                spool,
                settings,
                lambda: slot.facts,
                lambda: connection.connected,
                relay.wake,
                on_trial=lambda: slot.on_trial,
            ),
            Reporter(state, spool, slot, metrics, settings, wake=relay.wake),
        )
        duties: tuple[Duty, ...] = (
            *patient_duties,
            updater,
            Housekeeper(
                spool, state, Keeping(settings.results_keep_days, settings.results_max_bytes), metrics
            ),
        )
        updater.begin()
        doorkeeper.turn()
        connection.start()
        relay.start()
        try:
            yield Parts(
                settings=settings,
                state=state,
                spool=spool,
                slot=slot,
                energy=energy,
                meter=StepMeter(spool, energy, settings.threads),
                arrivals=Arrivals(judge, state.path, settings.inbox_max_bytes, metered=settings.metered),
                metrics=metrics,
                connection=connection,
                consumer=consumer,
                relay=relay,
                doorkeeper=doorkeeper,
                duties=duties,
                patient_duties=patient_duties,
                metrics_port=metrics_port,
            )
        finally:
            relay.stop()
            connection.stop(_GOODBYE_SECONDS)
            updater.close()


def _reconcile(spool: Spool) -> None:
    """What was released is looked into first; a record that cannot be used stops `contribute`, and nothing else."""
    try:
        reconciled = reconcile(spool)
    except JournalUnusable as error:
        log.critical("journal_unusable", error=str(error))
        return
    if reconciled.restored or reconciled.written:
        log.warning("ledger_reconciled", restored=reconciled.restored, written=reconciled.written)


def _remaining_seconds(spool: Spool, entry: Entry) -> float | None:
    """How long a message of the outbox is of use yet: as long as the job, or the place in the stock, that it asks for."""
    if entry.job_id is not None:
        job = jobs.find(spool, entry.job_id)
        return job.remaining_seconds(clock.now()) if job else 0.0
    if entry.kind == "prefetch":
        return pool_requests.remaining_seconds(spool, entry.message_id)
    return None


def _updater(
    settings: EdgeSettings,
    state: StateDirectory,
    spool: Spool,
    slot: HeadSlot,
    judge: Judge,
    turnstile: threading.Semaphore | None,
) -> HeadUpdater:
    return HeadUpdater(
        spool,
        state.heads,
        slot,
        judge,
        provider=settings.provider,
        threads=settings.threads,
        fallback=settings.provider_fallback,
        terms=Terms(settings.trial_images, settings.trial_seconds),
        turnstile=turnstile,
    )
