"""A bound on what is in flight, in messages and in bytes."""

import threading
import time


class Window:
    """Admits messages while fewer than `messages` of them, with fewer than `size_bytes` bytes, are in flight.

    One message alone is always admitted, whatever its size.
    """

    def __init__(self, messages: int, size_bytes: int) -> None:
        self._limit = messages
        self._limit_bytes = size_bytes
        self._messages = 0
        self._bytes = 0
        self._changed = threading.Condition()

    @property
    def in_flight(self) -> tuple[int, int]:
        """Messages and bytes that are admitted and not released."""
        with self._changed:
            return self._messages, self._bytes

    def acquire(self, size_bytes: int, timeout_seconds: float) -> bool:
        """Admit one message, waiting for room; False when there was none within `timeout_seconds`."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not self._has_room(size_bytes):
                left_seconds = deadline - time.monotonic()
                if left_seconds <= 0:
                    return False
                self._changed.wait(left_seconds)
            self._messages += 1
            self._bytes += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """A message that was admitted is not in flight any more."""
        with self._changed:
            self._messages -= 1
            self._bytes -= size_bytes
            # All who wait: what makes no room for a large message may make it for a small one.
            self._changed.notify_all()

    def _has_room(self, size_bytes: int) -> bool:
        if self._messages == 0:
            return True
        return self._messages < self._limit and self._bytes + size_bytes <= self._limit_bytes
