"""A delivered head's way into use: made a file, tried in a process of its own, taken up on trial, kept or given up.

Every step is written down before it is taken, so that an agent that dies at any moment finds where it was, and a head that ends
agents is given up by the third of them. The agent's thread calls `turn` between two images; nothing here waits.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_agent.errors import HeadError, ProviderMissing
from edge_agent.heads import assembly, reasons, store
from edge_agent.heads.examiner import Examiner
from edge_agent.heads.golden_check import LIMIT_SECONDS
from edge_agent.heads.head_slot import HeadSlot, file_digest
from edge_agent.heads.installation import adopt
from edge_agent.heads.judge import Judge
from edge_agent.heads.provider import Fallback, Provider
from edge_agent.heads.store import HeadRow
from edge_agent.heads.trial import MAX_LIVE_STARTS, Progress, Terms, may_start, verdict
from edge_agent.storage.spool import Spool
from export.bundle.manifest import Manifest
from export.errors import BundleError

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 60.0
_NOTE_SECONDS = 10.0
_PROVEN_SECONDS = 600.0
_ON_THE_WAY = "SELECT 1 FROM heads WHERE state IN ('receiving', 'staged', 'trial') LIMIT 1"


@dataclass(frozen=True)
class _Unproven:
    """A live head that was taken up and has not worked since: what the slot had made then, and when that was."""

    bundle: str
    images: int
    at: float


class HeadUpdater:
    """A duty of the agent.

    directory: of the delivered heads' files.
    slot: where the head in use stands.
    judge: whose heads are taken.
    provider, threads, fallback: where heads run; see `Head.load`.
    terms: how long a head is on trial.
    check_seconds: how long its golden probe may take.
    turnstile: lets so many agents of one process probe at once; None for an agent that is alone.
    """

    def __init__(
        self,
        spool: Spool,
        directory: Path,
        slot: HeadSlot,
        judge: Judge,
        *,
        provider: Provider = "auto",
        threads: int | None = None,
        fallback: Fallback = "error",
        terms: Terms | None = None,
        check_seconds: float = LIMIT_SECONDS,
        turnstile: threading.Semaphore | None = None,
    ) -> None:
        self._spool = spool
        self._directory = directory
        self._slot = slot
        self._judge = judge
        self._terms = terms or Terms()
        self._examiner = Examiner(
            spool,
            directory,
            provider=provider,
            threads=threads,
            fallback=fallback,
            check_seconds=check_seconds,
            turnstile=turnstile,
        )
        self._not_loadable: set[str] = set()
        self._served: tuple[int, Manifest | None] | None = None
        self._assemble_at = 0.0
        self._on_trial: str | None = None
        self._noted_at = 0.0
        self._noted_images = 0
        self._unproven: _Unproven | None = None
        self._told_revoked = False

    def begin(self) -> None:
        """After a start: put files and rows in order, and take up the best head there is."""
        self._slot.look()
        adopt(self._spool, self._directory, self._judge)
        self._drop_revoked()
        store.reconcile(self._spool, self._directory)
        with self._spool.transaction() as transaction:
            store.forgive_reboots(transaction)
        self._serve()

    def turn(self) -> None:
        """Look what there is to do, and do a little of it."""
        if self._spool.row(_ON_THE_WAY) or self._examiner.busy or self._on_trial is not None:
            self._assemble()
            self._examiner.turn()
            self._watch()
        self._prove()
        changes = self._spool.rows("SELECT coalesce(max(changed), 0) FROM heads")[0][0]
        if (changes, self._slot.own) != self._served:
            self._serve()

    def close(self) -> None:
        """The agent ends in order: what was begun has not failed."""
        self._examiner.close()
        if self._on_trial is not None:
            self._note_work()
            self._end_start(self._on_trial)
            self._on_trial = None
        if self._unproven is not None:
            self._end_start(self._unproven.bundle)
            self._unproven = None

    def _drop_revoked(self) -> None:
        """The settings may name other keys than before."""
        try:
            with self._spool.transaction() as transaction:
                self._judge.drop_revoked(transaction)
        except BundleError as error:
            log.warning("head_keys_unreadable", error=str(error))

    def _assemble(self) -> None:
        if time.monotonic() < self._assemble_at:
            return
        try:
            assembly.assemble(self._spool, self._directory, self._judge)
        except OSError as error:
            self._assemble_at = time.monotonic() + _RETRY_SECONDS
            log.warning("head_not_written", error=str(error), retry_in_seconds=_RETRY_SECONDS)

    def _watch(self) -> None:
        """Count what the head on trial has done, and end its trial when it has done enough."""
        if self._on_trial is None:
            return
        worth_noting = time.monotonic() - self._noted_at >= min(_NOTE_SECONDS, self._terms.seconds)
        if not worth_noting and self._slot.images == self._noted_images:
            return
        self._note_work()
        with self._spool.transaction() as transaction:
            row = store.find(transaction, self._on_trial)
            if row is None or row.state != "trial":
                return  # the operator has ended it; `_serve` sees to the rest
            if verdict(_progress(row), self._terms) == "good":
                store.promote(transaction, row.bundle)
                log.info("head_installed", head=row.title, images=row.images)
        store.remove_unneeded(self._spool, self._directory)

    def _note_work(self) -> None:
        now, images = time.monotonic(), self._slot.images
        assert self._on_trial is not None
        with self._spool.transaction() as transaction:
            store.note_work(transaction, self._on_trial, images - self._noted_images, now - self._noted_at)
        self._noted_at, self._noted_images = now, images

    def _serve(self) -> None:
        """Have the best head there is in use, and say so when it is one that must be replaced."""
        self._take_up()
        self._tell_if_revoked()

    def _take_up(self) -> None:
        """Take up the first of the heads there are that can be: on trial, live, in reserve, and the settings' own."""
        for row in self._candidates():
            if not row.allow_older and self._slot.prefers_own(row.counter):
                if row.state == "trial":
                    self._roll_back(row.bundle, reasons.SUPERSEDED, "the settings name a head that is as new")
                break
            if row.bundle == self._slot.delivered or self._load(row):
                self._settle(row)
                return
        self._settle(None)
        self._slot.serve_own()

    def _tell_if_revoked(self) -> None:
        """A device is never left without a head, so one whose key was revoked works on, and nobody may overlook that it does."""
        with self._spool.transaction() as transaction:
            try:
                revoked = self._judge.is_revoked(transaction, self._slot.delivered)
            except BundleError as error:
                log.warning("head_keys_unreadable", error=str(error))
                return
            if revoked != store.key_revoked(self._spool):
                store.note_key_revoked(transaction, revoked)
        told, self._told_revoked = self._told_revoked, revoked
        if revoked and not told:
            log.error(
                "head_in_use_revoked",
                bundle=self._slot.delivered,
                error="the key that vouched for the head in use is trusted no longer: publish one that the keys in force sign",
            )

    def _candidates(self) -> list[HeadRow]:
        with self._spool.transaction() as transaction:
            self._served = (store.change_count(transaction), self._slot.own)
            rows = [store.in_state(transaction, state) for state in ("trial", "live", "previous")]
        return [row for row in rows if row is not None and row.bundle not in self._not_loadable]

    def _load(self, row: HeadRow) -> bool:
        if row.state == "trial" and not self._begin_trial(row):
            return False
        if row.state == "live" and not self._begin_use(row):
            return False
        try:
            self._slot.serve(store.path_of(self._directory, row.bundle), row.bundle, row.manifest)
        except HeadError as error:
            if self._is_spoilt(row):
                self._roll_back(row.bundle, reasons.FILE_DAMAGED, str(error))
            elif row.state == "trial":
                missing = isinstance(error, ProviderMissing)
                self._roll_back(
                    row.bundle, reasons.PROVIDER_MISSING if missing else "load_failed", str(error)
                )
            else:
                self._not_loadable.add(row.bundle)
                log.warning("head_not_loadable", head=row.title, error=str(error))
            return False
        log.info("head_taken_up", head=row.title, state=row.state)
        return True

    def _begin_trial(self, row: HeadRow) -> bool:
        """Write down that it begins, before anything of it runs in this process."""
        if not may_start(_progress(row)):
            self._roll_back(
                row.bundle, "crashed", f"the agent died {row.starts} times while it ran this head"
            )
            return False
        with self._spool.transaction() as transaction:
            store.note_start(transaction, row.bundle, 1)
        return True

    def _begin_use(self, row: HeadRow) -> bool:
        """A live head that ends every agent at its first job gives way to the one before it, if there is one."""
        with self._spool.transaction() as transaction:
            reserve = store.in_state(transaction, "previous")
            gives_way = row.starts >= MAX_LIVE_STARTS and reserve is not None
            if not gives_way:
                store.note_start(transaction, row.bundle, 1)
        if gives_way:
            detail = f"the agent died {row.starts} times in a row before this head had made an image"
            self._roll_back(row.bundle, "crashed", detail)
            return False
        self._unproven = _Unproven(row.bundle, self._slot.images, time.monotonic())
        return True

    def _prove(self) -> None:
        """The head that was taken up has made an image, or the agent has lived for long enough with it."""
        begun = self._unproven
        if begun is None:
            return
        if self._slot.images > begun.images or time.monotonic() - begun.at >= _PROVEN_SECONDS:
            self._unproven = None
            with self._spool.transaction() as transaction:
                store.note_proven(transaction, begun.bundle)

    def _is_spoilt(self, row: HeadRow) -> bool:
        try:
            return file_digest(store.path_of(self._directory, row.bundle)) != row.bundle
        except HeadError:
            return True

    def _settle(self, row: HeadRow | None) -> None:
        """Remember which head is being watched, if any is."""
        watched = row.bundle if row is not None and row.state == "trial" else None
        if watched == self._on_trial:
            return
        self._on_trial = watched
        self._slot.on_failure = None if watched is None else self._fail_trial
        self._noted_at, self._noted_images = time.monotonic(), self._slot.images

    def _fail_trial(self, detail: str) -> None:
        """The head on trial failed at a job: whoever asks next is answered by the one before it."""
        if self._on_trial is not None:
            self._roll_back(self._on_trial, "failed_at_work", detail)
        self._serve()

    def _roll_back(self, bundle: str, reason: str, detail: str) -> None:
        with self._spool.transaction() as transaction:
            store.roll_back(transaction, bundle, reason, detail)
        log.error("head_rolled_back", bundle=bundle, reason=reason, error=detail)
        store.remove_unneeded(self._spool, self._directory)

    def _end_start(self, bundle: str) -> None:
        with self._spool.transaction() as transaction:
            store.note_start(transaction, bundle, -1)


def _progress(row: HeadRow) -> Progress:
    return Progress(images=row.images, seconds=row.work_seconds, starts=row.starts)
