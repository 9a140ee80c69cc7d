"""Waiting times between attempts: exponential, capped, with full jitter.

Full jitter spreads a fleet that lost its broker at one instant evenly over the window, instead of letting it come back as one
wave (M. Brooker, "Exponential Backoff And Jitter").
"""

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Counts failures in a row and says how long to wait after each.

    first_seconds: the upper end of the wait after the first failure.
    limit_seconds: the upper end of any wait.
    """

    first_seconds: float = 0.5
    limit_seconds: float = 30.0
    rng: random.Random = field(default_factory=random.SystemRandom)
    failures: int = 0

    def next_seconds(self, least_share: float = 0.0) -> float:
        """One more failure: the seconds to wait, uniform in (least_share, 1] of min(limit, first·2^failures)."""
        # The exponent is bounded so that a link that is down for weeks does not overflow the power.
        window_seconds = min(self.limit_seconds, self.first_seconds * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return window_seconds * (1.0 - (1.0 - least_share) * self.rng.random())

    def reset(self) -> None:
        """The attempt succeeded."""
        self.failures = 0
