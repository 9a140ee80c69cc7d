"""What is kept of a device's last report: little, for there may be very many of them, and nothing that cannot be."""

from dataclasses import dataclass
from typing import NamedTuple, Self

from broker.contract.telemetry import TelemetryV1
from monitoring.exporter.fleet.believed import BOUNDS, COUNTED, GAUGE_BOUNDS, STEP_SECONDS, STEPS, believed

OUTCOMES = ("completed", "failed", "expired")
"""How a device's job ends; it counts each under `jobs_OUTCOME`."""
SILENT_AFTER_INTERVALS = 3
LATE_SECONDS = 3600.0
"""From this age on the oldest message in an outbox is late."""
_CHANGES_FORGOTTEN_AN_HOUR = 1.0
_MAX_CHANGES = 8.0
GAUGED_TROUBLES = ("ledger_incomplete", "spool_damaged", "head_key_revoked")
HEAD_ON_CPU = "head_on_cpu"
TROUBLES = (*GAUGED_TROUBLES, HEAD_ON_CPU)
"""What somebody has to look at on a device: gauges that are then above 0, and a head that does not run where it was asked to."""


class Head(NamedTuple):
    """A head as a device names it, and where it runs."""

    name: str
    version: str
    provider: str


OTHER_HEAD = Head("other", "", "")
"""Stands for heads that have no series of their own. No device can name it: it runs nowhere."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device as it was at its last report.

    Attributes:
        heard_seconds: when that came, by the monotonic clock of whoever listens.
        heard_at: the same in Unix seconds.
        sequence, interval_seconds, uptime_seconds: as it says, within what is believed.
        head: what it runs, or None.
        head_changes: how often that changed of late; every hour forgets one.
        update: the state of the bundle that it dealt with last, or None.
        jobs: how many ended in its life, in the order of OUTCOMES.
        releases: in its life.
        outbox_bytes, outbox_oldest_seconds, pool_images, pool_wanted, epsilon_max, image_joules: None when it does not say.
        troubles: of TROUBLES.
        step_seconds: mean of the head's steps in the last report that told of any, or None.
        counted_left, steps_left, step_seconds_left: of the allowances COUNTED, STEPS and STEP_SECONDS.
    """

    heard_seconds: float
    heard_at: float
    sequence: int
    interval_seconds: float
    uptime_seconds: float | None
    head: Head | None
    head_changes: float
    update: str | None
    jobs: tuple[int, ...]
    releases: int
    outbox_bytes: float | None
    outbox_oldest_seconds: float | None
    pool_images: float | None
    pool_wanted: float | None
    epsilon_max: float | None
    image_joules: float | None
    troubles: tuple[str, ...]
    step_seconds: float | None
    counted_left: float
    steps_left: float
    step_seconds_left: float

    @classmethod
    def of(cls, report: TelemetryV1, before: Self | None, heard_seconds: float, heard_at: float) -> Self:
        """What a report makes of what was known before."""
        said = report.head
        head = None if said is None else Head(said.name, said.version, said.provider)
        shortest, longest = BOUNDS["interval_seconds"].least, BOUNDS["interval_seconds"].most
        since_seconds = 0.0 if before is None else heard_seconds - before.heard_seconds
        return cls(
            heard_seconds=heard_seconds,
            heard_at=heard_at,
            sequence=report.sequence,
            interval_seconds=min(max(report.interval_seconds, shortest), longest),
            uptime_seconds=believed("uptime_seconds", report.uptime_seconds),
            # The same object for as long as it is the same: a name is kept once for each device, at most.
            head=before.head if before is not None and before.head == head else head,
            head_changes=_changes(before, head, heard_seconds),
            update=None if report.update is None else report.update.state,
            jobs=tuple(report.counters.get(f"jobs_{outcome}", 0) for outcome in OUTCOMES),
            releases=report.counters.get("releases", 0),
            troubles=_troubles(report),
            step_seconds=None if before is None else before.step_seconds,
            counted_left=COUNTED.risen(None if before is None else before.counted_left, since_seconds),
            steps_left=STEPS.risen(None if before is None else before.steps_left, since_seconds),
            step_seconds_left=STEP_SECONDS.risen(
                None if before is None else before.step_seconds_left, since_seconds
            ),
            **{name: believed(name, report.gauges.get(name)) for name in GAUGE_BOUNDS},
        )

    @property
    def shown_head(self) -> Head | None:
        """The head by which it is counted: one that changes all the time is nobody's, for each of its names would be a series."""
        return OTHER_HEAD if self.head is not None and self.head_changes > _MAX_CHANGES else self.head

    @property
    def is_late(self) -> bool:
        """Whether its oldest message has waited for too long."""
        return (self.outbox_oldest_seconds or 0.0) >= LATE_SECONDS

    def is_reporting(self, now_seconds: float) -> bool:
        """Whether it was heard of within three of its own intervals."""
        return now_seconds - self.heard_seconds <= SILENT_AFTER_INTERVALS * self.interval_seconds


def _troubles(report: TelemetryV1) -> tuple[str, ...]:
    found = [name for name in GAUGED_TROUBLES if report.gauges.get(name, 0.0) > 0]
    if report.head is not None and report.head.fallback is not None:
        found.append(HEAD_ON_CPU)
    return tuple(found)


def _changes(before: DeviceState | None, head: Head | None, now_seconds: float) -> float:
    if before is None:
        return 0.0
    forgotten = _CHANGES_FORGOTTEN_AN_HOUR * (now_seconds - before.heard_seconds) / 3600
    return max(0.0, before.head_changes - forgotten) + (before.head != head)
