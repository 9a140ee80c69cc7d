"""How long the heads of the fleet take for a step: the histogram of all, and what of a device's can be so."""

from bisect import bisect_left
from dataclasses import dataclass, field

from broker.contract.telemetry import StepTimes
from monitoring.metrics import STEP_BUCKETS_SECONDS

_MAX_STEP_SECONDS = 1000.0


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


def are_possible(steps: StepTimes, most_steps: float, most_seconds: float) -> bool:
    """Whether a device can have made these steps, that can have made so many of them in so many seconds."""
    count = sum(steps.counts)
    longest_seconds = min(_MAX_STEP_SECONDS * count, most_seconds)
    return count <= most_steps and _least_seconds(steps) <= steps.sum_seconds <= longest_seconds


def _least_seconds(steps: StepTimes) -> float:
    """What its buckets say that the steps took at least; a step that was counted while the sum was read may be missing in it."""
    begins = [
        (begin, count) for begin, count in zip((0.0, *steps.bounds), steps.counts, strict=True) if count
    ]
    least = sum(begin * count for begin, count in begins)
    return max(0.0, least - max((begin for begin, _ in begins), default=0.0))
