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


def exit_stuck() -> None:
    """End the process at once, for its supervisor to start another; the broker gives its requests to other workers."""
    sys.stderr.flush()
    os._exit(EXIT_STUCK)


class Watchdog:
    """Watches that the loop turns.

    limit_seconds: between two beats, at most.
    on_stuck: called once, in the watchdog's own thread, when they are further apart.
    """

    def __init__(self, limit_seconds: float, on_stuck: Callable[[], None] = exit_stuck) -> None:
        self._limit_seconds = limit_seconds
        self._on_stuck = on_stuck
        self._beat_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def silent_seconds(self) -> float:
        """Since the last beat."""
        return time.monotonic() - self._beat_at

    def start(self) -> None:
        """Begin to watch."""
        self.beat()
        self._thread.start()

    def beat(self) -> None:
        """The loop has come round."""
        self._beat_at = time.monotonic()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._limit_seconds / _LOOKS_PER_LIMIT):
            if self.silent_seconds > self._limit_seconds:
                log.critical(
                    "step_stuck", seconds=round(self.silent_seconds, 1), limit_seconds=self._limit_seconds
                )
                self._on_stuck()
                return
