"""The fleet as its devices tell of it: who reports, what they run, what they have done since somebody listens.

Devices are known by the name that the broker vouches for. Memory is bounded, and so is what is shown: few heads by name, few
devices one by one, the rest in sums.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from heapq import nlargest
from itertools import islice
from statistics import median

from broker.contract.telemetry import StepTimes, TelemetryV1
from monitoring.exporter.fleet.believed import FIGURES, unbelieved
from monitoring.exporter.fleet.device import OTHER_HEAD, OUTCOMES, DeviceState, Head
from monitoring.exporter.fleet.doubts import NAMED, Doubts
from monitoring.exporter.fleet.pace import ReportPace
from monitoring.exporter.fleet.picture import Picture, Totals
from monitoring.exporter.fleet.steps import Steps, are_possible

DEVICES_MAX = 200_000
DEVICE_SERIES_MAX = 1000
DEVICE_EXPIRES_SECONDS = 7 * 86_400.0
HEADS_SHOWN = 20
SILENT_SHARE = LATE_SHARE = TROUBLED_SHARE = 0.25
"""Of the places for devices one by one, so many are for those that fell silent last, and those whose messages wait longest."""
NO_HEAD_PROVIDER = "unknown"
"""Where steps were made of which a device reports without naming a head."""


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
        self._unbelieved = dict.fromkeys(FIGURES, 0)
        self._steps: dict[str, Steps] = {}
        self._pace = ReportPace()
        self._doubts = Doubts()

    def admits(self, user: str, size_bytes: int, now_seconds: float) -> bool:
        """Whether a message that a device sent as a report is worth reading; of one that floods few are.

        What is not admitted counts as refused.
        """
        with self._lock:
            if self._pace.admits(user, size_bytes, now_seconds):
                return True
            self._refused["too_often"] += 1
            self._doubts.note(user, "flood", now_seconds, "too_often")
            return False

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
            doubtful = unbelieved(report)
            if before is not None:
                counted = self._counted(before, state)
                doubtful += [] if counted else ["counters"]
                state = counted or state
            if report.step_seconds is not None:
                timed = self._timed(state, report.step_seconds)
                doubtful += [] if timed else ["step_seconds"]
                state = timed or state
            self._doubt(user, doubtful, now_seconds)
            self._devices[user] = state
            self._devices.move_to_end(user)
            self._forget(now_seconds)

    def refuse(self, reason: str, user: str | None, now_seconds: float) -> None:
        """Counts a message that could not be taken in as a report.

        Args:
            reason: a constant code.
            user: the device that sent it, as far as the broker vouches for it; None for nobody's.
            now_seconds: by the monotonic clock.
        """
        with self._lock:
            self._refused[reason] += 1
            if user is not None:
                self._doubts.note(user, "refused", now_seconds, reason)

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
                image_joules=_median(_said(state.image_joules for state in reporting)),
                troubled=Counter(trouble for state in reporting for trouble in state.troubles),
                distrusted=self._doubts.shown(now_seconds, min(NAMED, self._series_max)),
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
            unbelieved=dict(self._unbelieved),
            steps={
                provider: (tuple(steps.counts), steps.sum_seconds) for provider, steps in self._steps.items()
            },
        )

    def _counted(self, before: DeviceState, now: DeviceState) -> DeviceState | None:
        """Adds what a device has done since its last report, if it can have done so much; returns it with that much less to do.

        None when it cannot. One that begins anew (its state is another) has done it all since.
        """
        is_new_life = now.sequence < before.sequence
        jobs = [
            _grown(earlier, later, is_new_life) for earlier, later in zip(before.jobs, now.jobs, strict=True)
        ]
        releases = _grown(before.releases, now.releases, is_new_life)
        done = sum(jobs) + releases
        if done > now.counted_left:
            return None
        for outcome, count in zip(OUTCOMES, jobs, strict=True):
            self._jobs[outcome] += count
        self._releases += releases
        return replace(now, counted_left=now.counted_left - done)

    def _timed(self, now: DeviceState, steps: StepTimes) -> DeviceState | None:
        """Adds a report's step times, if the device can have made so many; returns it with that much less to do, or None."""
        count = sum(steps.counts)
        if not are_possible(steps, now.steps_left, now.step_seconds_left):
            return None
        if count == 0:
            return now
        provider = NO_HEAD_PROVIDER if now.head is None else now.head.provider
        self._steps.setdefault(provider, Steps()).add(steps)
        return replace(
            now,
            step_seconds=steps.sum_seconds / count,
            steps_left=now.steps_left - count,
            step_seconds_left=now.step_seconds_left - steps.sum_seconds,
        )

    def _doubt(self, user: str, figures: list[str], now_seconds: float) -> None:
        for figure in figures:
            self._unbelieved[figure] += 1
        if figures:
            self._doubts.note(user, "figures", now_seconds, ", ".join(figures))

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
        """Who says that something is wrong, who fell silent last, and whose messages wait longest, within their shares.

        Nobody where all have a place.
        """
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
        in_trouble = (
            user
            for user, state in reversed(self._devices.items())
            if state.troubles and state.is_reporting(now_seconds)
        )
        return [
            *islice(in_trouble, int(TROUBLED_SHARE * self._series_max)),
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


def _median(values: list[float]) -> float | None:
    return median(values) if values else None
