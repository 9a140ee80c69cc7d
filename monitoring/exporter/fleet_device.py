"""What is kept of a device's last report: little, for there may be very many of them, and nothing that cannot be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from broker.contract.telemetry import StepTimes, TelemetryV1

OUTCOMES = ("completed", "failed", "expired")
"""How a device's job ends; it counts each under `jobs_OUTCOME`."""
SILENT_AFTER_INTERVALS = 3
LATE_SECONDS = 3600.0
"""From this age on the oldest message in an outbox is late."""
_INTERVAL_SECONDS = (1.0, 86_400.0)
"""The shortest and the longest that an agent can be set to; what a device says beyond them is not believed."""
MOST_BELIEVED = {
    "outbox_bytes": 1e15,
    "outbox_oldest_seconds": 1e9,
    "pool_images": 1e9,
    "pool_wanted": 1e9,
    "epsilon_max": 1e18,
    "image_joules": 1e9,
}
"""The largest of each gauge that is believed: sums stay numbers that mean something."""
_MAX_STEPS = 10**9
_MAX_STEP_SECONDS = 1000.0
_MAX_STEPS_SECONDS = 7 * 86_400.0
"""All steps of a report together; no device computes for longer without reporting and is remembered."""
MAX_ALLOWANCE = 1_000_000.0
"""Jobs and releases that a device can have done after a long silence; more is not believed."""
ALLOWANCE_PER_SECOND = 100.0
"""By which what is believed of it rises again. However often it reports, it moves the fleet's sums no faster."""
_CHANGES_FORGOTTEN_AN_HOUR = 1.0
_MAX_CHANGES = 8.0


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
        sequence, interval_seconds, uptime_seconds: as it says.
        head: what it runs, or None.
        head_changes: how often that changed of late; every hour forgets one.
        update: the state of the bundle that it dealt with last, or None.
        jobs: how many ended in its life, in the order of OUTCOMES.
        releases: in its life.
        outbox_bytes, outbox_oldest_seconds, pool_images, pool_wanted, epsilon_max, image_joules: None when it does not say.
        step_seconds: mean of the head's steps in the last report that told of any, or None.
        allowance: jobs and releases that it can have done since they were last counted.
    """

    heard_seconds: float
    heard_at: float
    sequence: int
    interval_seconds: float
    uptime_seconds: float
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
    step_seconds: float | None
    allowance: float

    @classmethod
    def of(cls, report: TelemetryV1, before: Self | None, heard_seconds: float, heard_at: float) -> Self:
        """What a report makes of what was known before."""
        said = report.head
        head = None if said is None else Head(said.name, said.version, said.provider)
        steps = plausible_steps(report.step_seconds)
        shortest, longest = _INTERVAL_SECONDS
        return cls(
            heard_seconds=heard_seconds,
            heard_at=heard_at,
            sequence=report.sequence,
            interval_seconds=min(max(report.interval_seconds, shortest), longest),
            uptime_seconds=report.uptime_seconds,
            # The same object for as long as it is the same: a name is kept once for each device, at most.
            head=before.head if before is not None and before.head == head else head,
            head_changes=_changes(before, head, heard_seconds),
            update=None if report.update is None else report.update.state,
            jobs=tuple(report.counters.get(f"jobs_{outcome}", 0) for outcome in OUTCOMES),
            releases=report.counters.get("releases", 0),
            step_seconds=_mean_seconds(steps, before),
            allowance=_allowance(before, heard_seconds),
            **{name: _believed(report.gauges, name, most) for name, most in MOST_BELIEVED.items()},
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


def plausible_steps(steps: StepTimes | None) -> StepTimes | None:
    """The step times of a report, or None when there are none or they cannot be."""
    if steps is None:
        return None
    count = sum(steps.counts)
    most_seconds = min(_MAX_STEP_SECONDS * count, _MAX_STEPS_SECONDS)
    is_possible = 0 < count <= _MAX_STEPS and _least_seconds(steps) <= steps.sum_seconds <= most_seconds
    return steps if is_possible else None


def _least_seconds(steps: StepTimes) -> float:
    """What its buckets say that the steps took at least; a step that was counted while the sum was read may be missing in it."""
    begins = [
        (begin, count) for begin, count in zip((0.0, *steps.bounds), steps.counts, strict=True) if count
    ]
    least = sum(begin * count for begin, count in begins)
    return max(0.0, least - max((begin for begin, _ in begins), default=0.0))


def _allowance(before: DeviceState | None, heard_seconds: float) -> float:
    if before is None:
        return MAX_ALLOWANCE
    since_seconds = max(0.0, heard_seconds - before.heard_seconds)
    return min(MAX_ALLOWANCE, before.allowance + ALLOWANCE_PER_SECOND * since_seconds)


def _mean_seconds(steps: StepTimes | None, before: DeviceState | None) -> float | None:
    if steps is not None:
        return steps.sum_seconds / sum(steps.counts)
    return None if before is None else before.step_seconds


def _believed(gauges: Mapping[str, float], name: str, most: float) -> float | None:
    value = gauges.get(name)
    return value if value is not None and 0 <= value <= most else None


def _changes(before: DeviceState | None, head: Head | None, now_seconds: float) -> float:
    if before is None:
        return 0.0
    forgotten = _CHANGES_FORGOTTEN_AN_HOUR * (now_seconds - before.heard_seconds) / 3600
    return max(0.0, before.head_changes - forgotten) + (before.head != head)
