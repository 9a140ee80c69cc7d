"""The device says how it is: now and then, and at once when something has happened to a head on its way."""

import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, get_args

import structlog

from broker.contract.telemetry import HeadReport, StepTimes, TelemetryV1
from edge_agent import status
from edge_agent.errors import OutboxFull
from edge_agent.generation import jobs
from edge_agent.heads import arrivals
from edge_agent.heads.energy import image_joules
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.heads.judge import AGENT_VERSION
from edge_agent.link import outbox
from edge_agent.settings import EdgeSettings
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.metrics import EdgeMetrics

log = structlog.get_logger(__name__)

_JITTER = 0.1
_FIRST_WITHIN_SECONDS = 10.0
_SEQUENCE: Final = "telemetry_sequence"
TOLD = frozenset(get_args(counters.Name)) - {_SEQUENCE}
"""Which of the spool's counters are told: all but the number that each report bears. A test says when there are too many."""


class Reporter:
    """A duty of the agent: puts reports into the outbox, where the newest takes the place of one that is not sent yet.

    wake: told that there is something to send.
    """

    def __init__(
        self,
        state: StateDirectory,
        spool: Spool,
        slot: HeadSlot,
        metrics: EdgeMetrics,
        settings: EdgeSettings,
        *,
        wake: Callable[[], None],
    ) -> None:
        self._state = state
        self._spool = spool
        self._slot = slot
        self._metrics = metrics
        self._settings = settings
        self._wake = wake
        self._began_at = time.monotonic()
        first_within = min(_FIRST_WITHIN_SECONDS, settings.telemetry_seconds)
        self._due_at = self._began_at + first_within * random.random()  # noqa: S311 - jitter, not a secret
        self._told_change = self._last_change()
        self._told_steps = _steps(metrics)

    def turn(self) -> None:
        """Report when it is time, or when a head on its way has come further."""
        change = self._last_change()
        if time.monotonic() < self._due_at and change == self._told_change:
            return
        interval_seconds = self._settings.telemetry_seconds
        spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter, not a secret
        self._due_at = time.monotonic() + interval_seconds * spread
        self._told_change = change
        try:
            self._report()
        except OutboxFull as error:
            log.info("telemetry_skipped", error=str(error))

    def _report(self) -> None:
        steps = _steps(self._metrics)
        facts = status.collect(self._state, self._spool, self._settings)
        update = arrivals.report(self._spool)
        counted = _counters(self._spool, facts)
        with self._spool.transaction() as transaction:
            message = TelemetryV1(
                sequence=counters.add(transaction, _SEQUENCE),
                interval_seconds=float(self._settings.telemetry_seconds),
                uptime_seconds=time.monotonic() - self._began_at,
                agent_version=AGENT_VERSION,
                head=self._head(),
                update=update,
                counters=counted,
                gauges=_gauges(facts, image_joules(self._spool)),
                step_seconds=_since(self._told_steps, steps),
            )
            outbox.put_telemetry(transaction, message, self._settings.outbox_max_bytes)
        self._told_steps = steps
        self._wake()

    def _head(self) -> HeadReport | None:
        loaded = self._slot.loaded
        if loaded is None:
            return None
        manifest = loaded.head.manifest
        return HeadReport(
            bundle=loaded.bundle,
            name=manifest.name,
            version=manifest.version,
            counter=manifest.counter,
            provider=loaded.head.provider,
            fallback=None if loaded.head.fallback is None else loaded.head.fallback[:200],
        )

    def _last_change(self) -> int:
        return int(self._spool.rows("SELECT coalesce(max(changed), 0) FROM heads")[0][0])


def _counters(spool: Spool, facts: dict[str, Any]) -> dict[str, int]:
    """What was counted in the device's life, by name."""
    kept = {row["name"]: int(row["value"]) for row in spool.rows("SELECT name, value FROM counters")}
    # What another version of the agent may have left there has no place kept for it.
    found = {name: value for name, value in kept.items() if name in TOLD and value >= 0}
    found |= {f"jobs_{outcome}": facts["jobs"].get(outcome, 0) for outcome in jobs.ENDED}
    found |= {name: facts["ledger"][name] for name in ("images", "releases", "refused")}
    found["receipts"] = facts["receipts"]["batches"]
    return found


def _gauges(facts: dict[str, Any], joules: float | None) -> dict[str, float]:
    """How things stand, by name; what this device does not have, or know, is left out.

    joules: to finish an image, in the mean.
    """
    load, stock, ledger = facts["outbox"], facts["pool"], facts["ledger"]
    found: dict[str, float | None] = {
        "outbox_messages": load["messages"],
        "outbox_bytes": load["bytes"],
        "outbox_oldest_seconds": load["oldest_seconds"],
        "epsilon_max": ledger["epsilon_max"],
        "pool_images": sum(shelf["images"] for shelf in stock),
        "pool_wanted": sum(shelf["wanted"] for shelf in stock),
        "image_joules": joules,
        "ledger_incomplete": ledger["incomplete_since"] is not None and not ledger["loss_acknowledged"],
        "spool_damaged": bool(facts["quarantine"]),
        "head_key_revoked": bool((facts["head"] or {}).get("key_revoked")),
    }
    return {name: float(value) for name, value in found.items() if value is not None and abs(value) < 1e18}


def _steps(metrics: EdgeMetrics) -> tuple[tuple[float, ...], tuple[int, ...], float]:
    """The histogram of the head's steps as it stands: bounds in seconds, counts (one more), and the sum; all providers."""
    below: dict[float, float] = {}
    total = 0.0
    for sample in next(iter(metrics.head_step_seconds.collect())).samples:
        if sample.name.endswith("_bucket"):
            bound = float(sample.labels["le"])
            below[bound] = below.get(bound, 0.0) + sample.value
        elif sample.name.endswith("_sum"):
            total += sample.value
    bounds = sorted(below)
    edges = [0.0, *(below[bound] for bound in bounds)]
    counts = tuple(int(high - low) for low, high in pairwise(edges))
    return tuple(bound for bound in bounds if bound != float("inf")), counts, total


def _since(
    before: tuple[tuple[float, ...], tuple[int, ...], float],
    now: tuple[tuple[float, ...], tuple[int, ...], float],
) -> StepTimes | None:
    """What was added between two looks, or None when nothing was."""
    bounds, counts, total = now
    earlier = before[1] or (0,) * len(counts)
    added = tuple(new - old for new, old in zip(counts, earlier, strict=True))
    if not any(added):
        return None
    return StepTimes(bounds=bounds, counts=added, sum_seconds=max(0.0, total - before[2]))
