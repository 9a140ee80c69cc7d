"""Which batches are too old to be kept, by a clock that may be wrong: what it would erase wrongly cannot be brought back."""

from collections.abc import Sequence

import structlog

from server_worker.samples.batch import StoredBatch

log = structlog.get_logger(__name__)

DAY_SECONDS = 86_400.0
SKEW_SECONDS = 300.0
"""The clocks of servers that store together differ; more than this is a clock that was set wrong."""
SECOND_LOOK_SECONDS = 3300.0
"""Maintenance comes every hour; an operator has until the next one to see that the clock is wrong."""


class Retention:
    """Decides what is to be erased for its age; erases nothing itself.

    days: None for no limit.
    """

    def __init__(self, days: float | None) -> None:
        self._days = days
        self._doubted_seconds: float | None = None

    def due(self, entries: Sequence[StoredBatch], now_unix: float, seconds: float) -> list[str]:
        """The ids of what is too old; none while the clock is not to be trusted.

        seconds: of a clock that cannot be set. Where more than half of the batches would go at once, they go at a second look.
        """
        if self._days is None or not entries:
            return []
        newest = max(entry.stored_at for entry in entries)
        if now_unix < newest - SKEW_SECONDS:
            log.error("clock_behind_samples", now_unix=now_unix, newest_stored_at=newest)
            return []
        before = now_unix - self._days * DAY_SECONDS
        old = [entry.message_id for entry in entries if entry.stored_at < before]
        if 2 * len(old) <= len(entries):
            self._doubted_seconds = None
            return old
        if self._doubted_seconds is None:
            self._doubted_seconds = seconds
        if seconds - self._doubted_seconds < SECOND_LOOK_SECONDS:
            log.error("retention_put_off", batches=len(old), of=len(entries), now_unix=now_unix)
            return []
        self._doubted_seconds = None
        return old
