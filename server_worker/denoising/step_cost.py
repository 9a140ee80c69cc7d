"""What a network call costs, as measured: the scheduler's only knowledge of the hardware."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

SATURATED_SHARE = 0.95
"""Of the best throughput measured; the smallest batch that reaches it is large enough, and every larger one only adds latency."""


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step by the number of samples in it: `samples` rising, `seconds` never falling."""

    samples: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def measured(cls, seconds_by_samples: Mapping[int, float]) -> "StepCost":
        """From one measurement per batch size.

        What disturbs a measurement only ever adds to it, and a smaller batch costs no more than a larger one: where a smaller
        one took longer it was disturbed, and the larger one's time stands for both.
        """
        if not seconds_by_samples:
            raise ValueError("a cost needs at least one measurement")
        samples = sorted(seconds_by_samples)
        least = list(accumulate((seconds_by_samples[size] for size in reversed(samples)), min))
        return cls(tuple(samples), tuple(reversed(least)))

    def of(self, samples: int) -> float:
        """Seconds of a step with so many samples: linear between measurements, in proportion beyond the last."""
        if samples <= self.samples[0]:
            return self.seconds[0]
        if samples >= self.samples[-1]:
            return self.seconds[-1] * samples / self.samples[-1]
        after = bisect_left(self.samples, samples)
        low, high = self.samples[after - 1], self.samples[after]
        part = (samples - low) / (high - low)
        return self.seconds[after - 1] * (1 - part) + self.seconds[after] * part

    def samples_within(self, seconds: float) -> int:
        """The most samples whose step takes no longer; 0 when even the smallest step does."""
        if seconds < self.seconds[0]:
            return 0
        if seconds >= self.seconds[-1]:
            return max(self.samples[-1], int(self.samples[-1] * seconds / self.seconds[-1]))
        after = bisect_right(self.seconds, seconds)
        low, high = self.samples[after - 1], self.samples[after]
        part = (seconds - self.seconds[after - 1]) / (self.seconds[after] - self.seconds[after - 1])
        return low + int(part * (high - low))

    def saturating_samples(self) -> int:
        """The smallest measured batch whose throughput is within SATURATED_SHARE of the best."""
        rates = [size / seconds for size, seconds in zip(self.samples, self.seconds, strict=True)]
        enough = SATURATED_SHARE * max(rates)
        return next(size for size, rate in zip(self.samples, rates, strict=True) if rate >= enough)


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The sizes that calls are measured at, and compiled for: powers of two and the steps halfway between, up to `largest`."""
    powers = [1 << bits for bits in range(largest.bit_length())]
    halves = [low + (high - low) // 2 for low, high in pairwise([*powers, 2 * powers[-1]]) if low >= 4]
    return tuple(sorted({size for size in (*powers, *halves, largest) if size <= largest}))
