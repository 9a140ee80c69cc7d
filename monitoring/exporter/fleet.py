"""The fleet as its devices tell of it: who reports, what they run, what they have done since somebody listens.

Devices are known by the name that the broker vouches for. Memory is bounded, and so is what is shown: few heads by name, few
devices one by one, the rest in sums.
"""

import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from heapq import nlargest
from itertools import islice

from broker.contract.telemetry import StepTimes, TelemetryV1
from monitoring.exporter.fleet_device import OTHER_HEAD, OUTCOMES, DeviceState, Head, plausible_steps
from monitoring.metrics import STEP_BUCKETS_SECONDS

DEVICES_MAX = 200_000
DEVICE_SERIES_MAX = 1000
DEVICE_EXPIRES_SECONDS = 7 * 86_400.0
HEADS_SHOWN = 20
SILENT_SHARE = LATE_SHARE = 0.25
"""Of the places for devices one by one, so many are for those that fell silent last, and those whose messages wait longest."""
NO_HEAD_PROVIDER = "unknown"
"""Where steps were made of which a device reports without naming a head."""


@dataclass
class Steps:
    """A histogram over STEP_BUCKETS_SECONDS; the last count is of what lies above them all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(STEP_BUCKETS_SECONDS) + 1))
    sum_seconds: float = 0.0

    def add(self, steps: StepTimes) -> None:
        """Adds what a device counted; a bucket of other bounds goes to the narrowest of ours that holds it whole."""
        for bound, count in zip((*steps.bounds, float("inf")), steps.counts, strict=True):
            self.counts[bisect_left(STEP_BUCKETS_SECONDS, bound)] += count
        self.sum_seconds += steps.sum_seconds


@dataclass(frozen=True)
class Totals:
    """What was counted since somebody listens; it never falls."""

    jobs: Mapping[str, int]
    releases: int
    reports: int
    refused: Mapping[str, int]
    steps: Mapping[str, tuple[tuple[int, ...], float]]


@dataclass(frozen=True)
class Picture:
    """The fleet at one moment. Sums and heads are those of the devices that report.

    Attributes:
        reporting, silent: how many devices.
        unlisted: those of both that are not in `listed`.
        late: reporting devices whose oldest message has waited for an hour or longer.
        heads: (head, devices), most devices first, OTHER_HEAD last.
        updates: state of the bundle dealt with last → devices.
        outbox_oldest_seconds, epsilon_max: the largest; None when no device tells.
        image_joules: the mean; None when no device tells.
        listed: (user, state, whether it reports), by name.
    """

    reporting: int
    silent: int
    unlisted: int
    late: int
    heads: tuple[tuple[Head, int], ...]
    updates: Mapping[str, int]
    outbox_bytes: float
    outbox_oldest_seconds: float | None
    pool_images: float
    pool_wanted: float
    epsilon_max: float | None
    image_joules: float | None
    listed: tuple[tuple[str, DeviceState, bool], ...]
    totals: Totals


class Fleet:
    """Keeps what devices last said. Safe to use from several threads; time is passed in, monotonic, in seconds.

    devices_max: known at a time; then who was heard of longest ago is forgotten.
    device_series_max: listed one by one.
    device_expires_seconds: who was not heard of for so long is forgotten.
    """

    def __init__(
        self,
        *,
        devices_max: int = DEVICES_MAX,
        device_series_max: int = DEVICE_SERIES_MAX,
        device_expires_seconds: float = DEVICE_EXPIRES_SECONDS,
    ) -> None:
        self._devices_max = devices_max
        self._series_max = device_series_max
        self._expires_seconds = device_expires_seconds
        self._lock = threading.Lock()
        self._devices: OrderedDict[str, DeviceState] = OrderedDict()
        """By when they were last heard of, the longest ago first."""
        self._listed: list[str] = []
        self._jobs = dict.fromkeys(OUTCOMES, 0)
        self._releases = 0
        self._reports = 0
        self._refused: Counter[str] = Counter()
        self._steps: dict[str, Steps] = {}

    def note(
        self, user: str, report: TelemetryV1, *, is_redelivered: bool, now_seconds: float, at: float
    ) -> None:
        """Takes in what a device says; a report that was taken in before is passed over.

        Args:
            user: the device, as the broker vouches for it.
            report: what it says.
            is_redelivered: whether the broker has delivered it before, perhaps here.
            now_seconds: by the monotonic clock.
            at: the same moment in Unix seconds.
        """
        with self._lock:
            before = self._devices.get(user)
            if before is not None and _is_repeat(before, report, is_redelivered):
                return
            self._reports += 1
            state = DeviceState.of(report, before, now_seconds, at)
            if before is not None:
                state = self._counted(before, state)
            self._count_steps(state, report)
            self._devices[user] = state
            self._devices.move_to_end(user)
            self._forget(now_seconds)

    def refuse(self, reason: str) -> None:
        """Counts a report that could not be taken in; reason: a constant code."""
        with self._lock:
            self._refused[reason] += 1

    def picture(self, now_seconds: float) -> Picture:
        """How the fleet is now."""
        with self._lock:
            self._forget(now_seconds)
            self._choose_listed(now_seconds)
            reporting = [state for state in self._devices.values() if state.is_reporting(now_seconds)]
            return Picture(
                reporting=len(reporting),
                silent=len(self._devices) - len(reporting),
                unlisted=len(self._devices) - len(self._listed),
                late=sum(state.is_late for state in reporting),
                heads=_most_run(state.shown_head for state in reporting),
                updates=Counter(state.update for state in reporting if state.update is not None),
                outbox_bytes=sum(state.outbox_bytes or 0.0 for state in reporting),
                outbox_oldest_seconds=max(
                    _said(state.outbox_oldest_seconds for state in reporting), default=None
                ),
                pool_images=sum(state.pool_images or 0.0 for state in reporting),
                pool_wanted=sum(state.pool_wanted or 0.0 for state in reporting),
                epsilon_max=max(_said(state.epsilon_max for state in reporting), default=None),
                image_joules=_mean(_said(state.image_joules for state in reporting)),
                listed=tuple(
                    (user, self._devices[user], self._devices[user].is_reporting(now_seconds))
                    for user in sorted(self._listed)
                ),
                totals=self._totals(),
            )

    def _totals(self) -> Totals:
        return Totals(
            jobs=dict(self._jobs),
            releases=self._releases,
            reports=self._reports,
            refused=dict(self._refused),
            steps={
                provider: (tuple(steps.counts), steps.sum_seconds) for provider, steps in self._steps.items()
            },
        )

    def _counted(self, before: DeviceState, now: DeviceState) -> DeviceState:
        """Adds what a device has done since its last report, if it can have done so much; returns it with that much less to do.

        One that begins anew (its state is another) has done it all since.
        """
        is_new_life = now.sequence < before.sequence
        jobs = [
            _grown(earlier, later, is_new_life) for earlier, later in zip(before.jobs, now.jobs, strict=True)
        ]
        releases = _grown(before.releases, now.releases, is_new_life)
        done = sum(jobs) + releases
        if done > now.allowance:
            return now
        for outcome, count in zip(OUTCOMES, jobs, strict=True):
            self._jobs[outcome] += count
        self._releases += releases
        return replace(now, allowance=now.allowance - done)

    def _count_steps(self, state: DeviceState, report: TelemetryV1) -> None:
        steps = plausible_steps(report.step_seconds)
        if steps is not None:
            provider = NO_HEAD_PROVIDER if state.head is None else state.head.provider
            self._steps.setdefault(provider, Steps()).add(steps)

    def _forget(self, now_seconds: float) -> None:
        while self._devices:
            eldest = next(iter(self._devices.values()))
            is_expired = now_seconds - eldest.heard_seconds > self._expires_seconds
            if not is_expired and len(self._devices) <= self._devices_max:
                return
            self._devices.popitem(last=False)

    def _choose_listed(self, now_seconds: float) -> None:
        """Who needs somebody comes first; else who is listed stays so while it reports, so that series do not come and go.

        Free places go to who was heard of last.
        """
        chosen = dict.fromkeys(self._troubled(now_seconds))
        for user in self._listed:
            state = self._devices.get(user)
            if state is not None and state.is_reporting(now_seconds) and len(chosen) < self._series_max:
                chosen[user] = None
        for user in reversed(self._devices):
            if len(chosen) >= self._series_max:
                break
            chosen[user] = None
        self._listed = list(chosen)

    def _troubled(self, now_seconds: float) -> list[str]:
        """Who fell silent last, and whose messages wait longest, within their shares; nobody where all have a place."""
        if len(self._devices) <= self._series_max:
            return []
        silent = (
            user for user in reversed(self._devices) if not self._devices[user].is_reporting(now_seconds)
        )
        late = (
            (state.outbox_oldest_seconds or 0.0, user)
            for user, state in self._devices.items()
            if state.is_late and state.is_reporting(now_seconds)
        )
        return [
            *islice(silent, int(SILENT_SHARE * self._series_max)),
            *(user for _, user in nlargest(int(LATE_SHARE * self._series_max), late)),
        ]


def _is_repeat(before: DeviceState, report: TelemetryV1, is_redelivered: bool) -> bool:
    """Numbers of a device rise for as long as it keeps its state: a smaller one is a new life, or an old report once more."""
    return report.sequence == before.sequence or (is_redelivered and report.sequence < before.sequence)


def _grown(before: int, now: int, is_new_life: bool) -> int:
    return now if is_new_life or now < before else now - before


def _most_run(heads: Iterable[Head | None]) -> tuple[tuple[Head, int], ...]:
    """The heads that most devices run, and all others together."""
    counts = Counter(head for head in heads if head is not None)
    others = counts.pop(OTHER_HEAD, 0)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    others += sum(count for _, count in ranked[HEADS_SHOWN:])
    return (*ranked[:HEADS_SHOWN], *([(OTHER_HEAD, others)] if others else []))


def _said(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
