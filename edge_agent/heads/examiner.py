"""Has the staged head tried, one at a time, in a process of its own: what passes goes on trial, what does not is given up."""

import threading
import time
from pathlib import Path

import structlog

from edge_agent.heads import reasons, store
from edge_agent.heads.golden_check import GoldenCheck
from edge_agent.heads.provider import Fallback, Provider
from edge_agent.heads.store import HeadRow
from edge_agent.heads.trial import MAX_STARTS
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 60.0
_MAY_BE_THE_DEVICES_FAULT = frozenset(
    {
        reasons.CHECK_CRASHED,
        reasons.CHECK_KILLED,
        reasons.CHECK_TIMED_OUT,
        reasons.NOT_READ,
        reasons.PROVIDER_MISSING,
    }
)
"""It is tried once more, after a pause in which memory may be free again, or a driver there."""


class Examiner:
    """Looks after the head that is staged; `turn` never waits.

    directory: of the delivered heads' files.
    provider, threads, fallback: where heads run; see `Head.load`.
    check_seconds: how long a golden probe may take.
    turnstile: lets so many agents of one process probe at once; None for an agent that is alone.
    """

    def __init__(
        self,
        spool: Spool,
        directory: Path,
        *,
        provider: Provider,
        threads: int | None,
        fallback: Fallback,
        check_seconds: float,
        turnstile: threading.Semaphore | None,
    ) -> None:
        self._spool = spool
        self._directory = directory
        self._provider: Provider = provider
        self._threads = threads
        self._fallback: Fallback = fallback
        self._check_seconds = check_seconds
        self._turnstile = turnstile
        self._under_way: tuple[str, GoldenCheck] | None = None
        self._not_before = 0.0

    @property
    def busy(self) -> bool:
        """Whether a head is being tried."""
        return self._under_way is not None

    def turn(self) -> None:
        """Begin to try the staged head, or see what came of it."""
        if self._under_way is not None:
            self._look(*self._under_way)
        elif time.monotonic() >= self._not_before and self._enter():
            self._begin()

    def close(self) -> None:
        """The agent ends in order: what was begun has not failed."""
        if self._under_way is not None:
            bundle, check = self._under_way
            check.stop()
            self._take_back(bundle)
            self._end()

    def _look(self, bundle: str, check: GoldenCheck) -> None:
        found = check.poll()
        if found is None:
            return
        self._end()
        reason, detail = found
        with self._spool.transaction() as transaction:
            row = store.find(transaction, bundle)
            if row is None or row.state != "staged":
                return  # another has taken its place meanwhile
            if not reason:
                store.move(transaction, bundle, "trial")
            elif reason in _MAY_BE_THE_DEVICES_FAULT and row.starts < MAX_STARTS:
                self._not_before = time.monotonic() + _RETRY_SECONDS
            else:
                store.move(transaction, bundle, "failed", reason=reason, detail=detail)
        log.info("head_checked", head=row.title, reason=reason or None, detail=detail)
        store.remove_unneeded(self._spool, self._directory)

    def _begin(self) -> None:
        try:
            row = self._chosen()
            if row is not None:
                self._under_way = self._started(row)
        finally:
            if self._under_way is None:
                self._end()

    def _chosen(self) -> HeadRow | None:
        """The staged head, if it may be tried now; that it is, is written down before it happens."""
        with self._spool.transaction() as transaction:
            row = store.in_state(transaction, "staged")
            if row is None or store.in_state(transaction, "trial") is not None:
                return None
            if row.starts >= MAX_STARTS:
                detail = f"it was tried {row.starts} times and the device went down each time"
                store.move(transaction, row.bundle, "failed", reason=reasons.CHECK_CRASHED, detail=detail)
                return None
            store.note_start(transaction, row.bundle, 1)
        return row

    def _started(self, row: HeadRow) -> tuple[str, GoldenCheck] | None:
        try:
            check = GoldenCheck(
                store.path_of(self._directory, row.bundle),
                manifest_digest=row.manifest,
                provider=self._provider,
                threads=self._threads,
                fallback=self._fallback,
                limit_seconds=self._check_seconds,
            )
        except OSError as error:  # no memory or no file to be had for another process: not the head's fault
            self._take_back(row.bundle)
            self._not_before = time.monotonic() + _RETRY_SECONDS
            log.warning("head_not_probed", error=str(error), retry_in_seconds=_RETRY_SECONDS)
            return None
        return row.bundle, check

    def _take_back(self, bundle: str) -> None:
        with self._spool.transaction() as transaction:
            store.note_start(transaction, bundle, -1)

    def _enter(self) -> bool:
        return self._turnstile is None or self._turnstile.acquire(blocking=False)

    def _end(self) -> None:
        self._under_way = None
        if self._turnstile is not None:
            self._turnstile.release()
