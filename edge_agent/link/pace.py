"""How many bytes may wait for their confirm: few at first, more while confirms come quickly. Pure."""

LEAST_BYTES = 256 * 2**10
"""What is in flight on a link that nobody knows yet; over 100 kB/s a request waits less than three seconds behind it."""
MOST_BYTES = 8 * 2**20
"""What is in flight at most; a device has little memory, and the outbox keeps the rest on disk."""
QUICK_SECONDS = 1.0
SLOW_SECONDS = 3.0


class Pace:
    """The window of a link, in bytes: a confirm within a second widens it by what it confirmed, a slow one halves it."""

    def __init__(self, least_bytes: int = LEAST_BYTES, most_bytes: int = MOST_BYTES) -> None:
        self._least_bytes = least_bytes
        self._most_bytes = most_bytes
        self.window_bytes = least_bytes
        """What may be in flight now."""

    def confirmed(self, size_bytes: int, waited_seconds: float) -> None:
        """A message of so many bytes was confirmed so long after it was sent."""
        if waited_seconds <= QUICK_SECONDS:
            self.window_bytes = min(self._most_bytes, self.window_bytes + size_bytes)
        elif waited_seconds > SLOW_SECONDS:
            self.window_bytes = max(self._least_bytes, self.window_bytes // 2)

    def reset(self) -> None:
        """The link went: the next one may be another."""
        self.window_bytes = self._least_bytes
