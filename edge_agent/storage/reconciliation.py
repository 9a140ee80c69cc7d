"""Ledger and journal teach each other what the other has forgotten.

The ledger lacks what was lost with a damaged spool, or with one that was put back from a backup; the journal what an earlier
version released, and what stood in lines that are damaged. What neither of them knows any more is reported as lost (see
`edge_agent.storage.loss`).
"""

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from edge_agent.errors import JournalUnusable
from edge_agent.storage import aside, loss, notes
from edge_agent.storage.journal import PRICE, Journal, Row, Scan
from edge_agent.storage.loss import Loss
from edge_agent.storage.salvage import ledger_rows
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

_MARK = "journal_read"
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class Reconciled:
    """Rows that the ledger learnt from the journal, and the journal from the ledger.

    damaged: lines of the journal that are not what was written;  lost: whether releases may have been forgotten by this, because
    the spool is a new one and the journal is not whole.
    """

    restored: int
    written: int
    damaged: int = 0
    lost: bool = False


@dataclass
class _Read:
    """What was read of the journal: its releases, as numbers, and why it could not be read to its end."""

    scan: Scan
    known: set[int] = field(default_factory=set)
    differing: set[int] = field(default_factory=set)
    obstacle: JournalUnusable | None = None

    @property
    def is_whole(self) -> bool:
        return self.obstacle is None and not self.scan.missing and self.scan.damaged == 0


def reconcile(spool: Spool, *, quick: bool = False) -> Reconciled:
    """Let ledger and journal know the same: after it nothing that either of them ever knew is forgotten.

    A journal that cannot be read is set aside and written anew. Other writers are kept waiting only where something differs.

    quick: read only what was added to the journal since it was read last.

    Raises SpoolError when one of them cannot be written, JournalUnusable when the journal cannot even be set aside.
    """
    journal = Journal.of(spool)
    anew = loss.began_anew(spool)
    read = _read(spool, journal, quick=quick and not anew)
    from_the_start = read.scan.start == 0
    restored = _learn(spool, read)
    lost = anew and not read.is_whole
    before = loss.known(spool)
    told = Loss(read.scan.since, read.scan.acknowledged)
    now = before.joined(told)
    if lost:
        now = now.again(time.time())
        restored += _restore_all(spool, ledger_rows(spool.path.parent, spool.path.name))
        log.critical("ledger_incomplete", damaged_lines=read.scan.damaged, releases_found=restored)
    if anew or now != before:
        with spool.transaction() as transaction:
            loss.write(transaction, now)
    if read.obstacle is not None or (read.scan.damaged and from_the_start):
        _set_aside(journal, read)
        told = Loss()
    written = _write_unknown(spool, journal, read.known) if from_the_start else 0
    if from_the_start and now != told:
        journal.note(now.since, now.acknowledged)
    _mark(spool, journal, read)
    return Reconciled(restored, written, read.scan.damaged, lost)


def _read(spool: Spool, journal: Journal, *, quick: bool) -> _Read:
    """Read the journal, beside whoever writes to the spool, and note where the ledger differs from what stands there last."""
    read = _Read(Scan(journal.path))
    dearer: set[int] = set()
    try:
        if quick:
            read.scan = Scan(journal.path, journal.start(notes.read(spool, _MARK)))
        for row in read.scan.rows():
            number = _number(row)
            read.known.add(number)
            there = _row_of(spool, row)
            if there is None or (there["restored"] and there["released_at"] != row.get("released_at")):
                read.differing.add(number)
            else:
                read.differing.discard(number)
            if there is not None and _costs_more(row, there["mu"]):
                dearer.add(number)
    except JournalUnusable as error:
        # What could be read of it is written anew with everything else.
        read.scan, read.known, read.obstacle = Scan(journal.path), set(), error
    read.differing |= dearer
    return read


def _learn(spool: Spool, read: _Read) -> int:
    """What the ledger did not know, or not so; returns how many releases it did not have."""
    if read.obstacle is not None or not read.differing:
        return 0
    again = Scan(read.scan.path, read.scan.start)
    return _restore_all(spool, (row for row in again.rows() if _number(row) in read.differing))


def _restore_all(spool: Spool, rows: Iterable[Row]) -> int:
    with spool.transaction() as transaction:
        columns = {row[1] for row in transaction.execute("PRAGMA table_info(ledger)")} - {"restored"}
        return sum(
            _restore(transaction, {name: row[name] for name in row if name in columns}) for row in rows
        )


def _row_of(source: Spool | sqlite3.Connection, row: Row) -> sqlite3.Row | None:
    sql, key = "SELECT * FROM ledger WHERE image = ? AND release = ?", (row["image"], row["release"])
    found = source.row(sql, key) if isinstance(source, Spool) else source.execute(sql, key).fetchone()
    return found  # noqa: RET504 - sqlite3 says Any


def _restore(transaction: sqlite3.Connection, row: Row) -> int:
    """A row of the journal into the ledger, flagged, unless it is there; of two lines for one release the later holds.

    But the price is the dearest that any of them names: nothing that was promised later takes back what was disclosed.
    """
    key = (row["image"], row["release"])
    there = _row_of(transaction, row)
    if there is not None:
        row = _dearer(row, {name: there[name] for name in PRICE})
        if not there["restored"] or there["released_at"] == row.get("released_at"):
            _reprice(transaction, row, there["mu"])
            return 0
    names, places = ", ".join(row), ", ".join("?" * len(row))
    try:
        transaction.execute(
            f"INSERT OR REPLACE INTO ledger ({names}, restored) VALUES ({places}, 1)",  # noqa: S608 - the ledger's columns
            list(row.values()),
        )
    except sqlite3.IntegrityError as error:
        # Nothing that this program wrote; a device must not be stopped by it for ever.
        log.warning("journal_row_refused", image=key[0], error=str(error))
        return 0
    return int(there is None)


def _costs_more(row: Row, mu: float | None) -> bool:
    """Whether the row names a price above `mu`; one that is not known is no price."""
    price = row.get("mu")
    return isinstance(price, float | int) and (mu is None or price > mu)


def _dearer(row: Row, other: Row) -> Row:
    """The row with the dearer price of the two."""
    mu = row.get("mu")
    return {**row, **other} if _costs_more(other, mu if isinstance(mu, float | int) else None) else row


def _reprice(transaction: sqlite3.Connection, row: Row, mu: float | None) -> None:
    """Write a dearer price of the journal to a row that is otherwise as it should be."""
    if _costs_more(row, mu):
        transaction.execute(
            "UPDATE ledger SET clip_norm = ?, norm_bound = ?, mu = ? WHERE image = ? AND release = ?",
            [row.get(name) for name in (*PRICE, "image", "release")],
        )


def _set_aside(journal: Journal, read: _Read) -> None:
    """Out of the way with a journal that is to be written anew. Raises JournalUnusable when it cannot be moved."""
    what = str(read.obstacle) if read.obstacle else f"{journal.path} is damaged in {read.scan.damaged} lines"
    try:
        folder = aside.move(journal.path.parent, [journal.path])
    except OSError as error:
        raise JournalUnusable(f"{what}; nothing is released before that") from error
    read.known.clear()
    log.critical("journal_quarantined", error=what, folder=str(folder))


def _write_unknown(spool: Spool, journal: Journal, known: set[int]) -> int:
    """Rows of the ledger that the journal does not have into the journal; returns how many."""
    if spool.rows("SELECT count(*) FROM ledger")[0][0] == len(known):
        return 0
    written = 0
    block: list[Row] = []
    with spool.transaction() as transaction:
        for row in transaction.execute("SELECT * FROM ledger"):
            if _number(row) not in known:
                block.append({name: row[name] for name in row.keys() if name != "restored"})  # noqa: SIM118 - a sqlite3.Row
            if len(block) == _BLOCK_ROWS:
                journal.append(block)
                written += len(block)
                block = []
        journal.append(block)
    return written + len(block)


def _mark(spool: Spool, journal: Journal, read: _Read) -> None:
    """Note how far the journal was read, for the next quick look; what was written anew is read again."""
    mark = None if not read.is_whole else journal.mark(read.scan.end)
    if mark is None or mark == notes.read(spool, _MARK):
        return
    with spool.transaction() as transaction:
        notes.write(transaction, _MARK, mark)


def _number(row: Row | sqlite3.Row) -> int:
    """What stands for a release in memory, as good as unique within this process."""
    return hash((row["image"], row["release"]))
