"""Notices a step that never ends: a hung GPU cannot be repaired from inside, but its worker can make way for another."""

import os
import sys
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

EXIT_STUCK = 70
_LOOKS_PER_LIMIT = 8
_LOG_SECONDS = 5.0


def exit_stuck() -> None:
    """End the process at once, for its supervisor to start another; the broker gives its requests to other workers."""
    os._exit(EXIT_STUCK)


class Watchdog:
    """Watches that the loop turns.

    limit_seconds: between two beats, at most.
    on_stuck: called in a thread of the watchdog's when they are further apart.
    """

    def __init__(self, limit_seconds: float, on_stuck: Callable[[], None] = exit_stuck) -> None:
        self._limit_seconds = limit_seconds
        self._on_stuck = on_stuck
        self._beat_at = float("inf")  # nothing is expected before the start
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def silent_seconds(self) -> float:
        """Since the last beat, or since the time it granted was over; below 0 before that."""
        return time.monotonic() - self._beat_at

    @property
    def is_late(self) -> bool:
        """Whether the loop has not come round in time."""
        return self.silent_seconds > self._limit_seconds

    def start(self) -> None:
        """Begin to watch."""
        self.beat()
        self._thread.start()

    def beat(self, grace_seconds: float = 0.0) -> None:
        """The loop has come round, and may take so much longer than the limit until it comes again."""
        self._beat_at = time.monotonic() + grace_seconds

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._limit_seconds / _LOOKS_PER_LIMIT):
            if self.is_late:
                # Whoever is stuck may hold the lock of the log: the end does not wait for it.
                timer = threading.Timer(_LOG_SECONDS, self._on_stuck)
                timer.daemon = True
                timer.start()
                log.critical(
                    "step_stuck", seconds=round(self.silent_seconds, 1), limit_seconds=self._limit_seconds
                )
                sys.stderr.flush()
                timer.cancel()
                self._on_stuck()
                return
