"""How many bytes may be sent now: a bucket that fills at so many bytes a second. Pure: the time is passed in.

A message is sent whole, so one that is larger than what is there leaves a debt, and the next waits until it is paid. What is
urgent does not wait and is counted all the same: over any longer time no more is sent than the cap, unless urgent messages alone
are more.
"""

from dataclasses import dataclass

BURST_SECONDS = 1.0
"""After a pause so many seconds' worth may be sent at once."""


@dataclass
class Allowance:
    """A token bucket.

    bytes_per_second: the cap, or None for none.
    """

    bytes_per_second: int | None
    _tokens: float | None = None
    _filled_at: float = 0.0

    def available(self, moment: float) -> float:
        """Bytes that may be sent at `moment`, in seconds of a clock that never goes back; 0 or less: wait. No cap: infinite."""
        if self.bytes_per_second is None:
            return float("inf")
        burst = self.bytes_per_second * BURST_SECONDS
        if self._tokens is None:
            self._tokens = burst
        else:
            passed = max(0.0, moment - self._filled_at)
            self._tokens = min(burst, self._tokens + passed * self.bytes_per_second)
        self._filled_at = moment
        return self._tokens

    def spend(self, count: int, moment: float) -> None:
        """So many bytes are being sent, urgent or not."""
        if self.bytes_per_second is not None:
            self._tokens = self.available(moment) - count
