"""A second record of what was released, beside the spool: lines that are only ever appended.

The spool may be damaged, and then everything in it can be made or asked for again, except the knowledge of which images have been
released. So each batch is written here, and is on the disk, before the transaction that accepts it commits. A batch that stands
here and not in the ledger was either interrupted or lost with a spool: it counts as released.

Each line is a CRC-32 in hexadecimal, a space, and a JSON object {"columns": [...], "rows": [[...], ...]} of the ledger's columns.
"""

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_agent.errors import SpoolError, SpoolFull
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

NAME = "ledger.journal"
_BLOCK_ROWS = 256
_PRICE = ("clip_norm", "norm_bound", "mu")

Value = str | int | float | None
Row = Mapping[str, Value]


class Journal:
    """The file; any number of processes may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, spool: Spool) -> "Journal":
        """The one that belongs to a spool."""
        return cls(spool.path.with_name(NAME))

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows of the ledger, all with the same columns, as one line; on the disk when this returns.

        Raises SpoolFull when the disk has no room, SpoolError when the file cannot be written; nothing is added then.
        """
        if not rows:
            return
        columns = list(rows[0])
        text = json.dumps({"columns": columns, "rows": [[row[name] for name in columns] for row in rows]})
        with self._locked() as descriptor:
            end = _whole_length(descriptor)
            os.ftruncate(descriptor, end)
            try:
                _write_at(descriptor, _line(text), end)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise

    def rows(self) -> Iterator[dict[str, Value]]:
        """Everything that was ever appended, oldest first; a line that is damaged is passed over and reported."""
        damaged = 0
        with _explained(self.path):
            if not self.path.exists():
                return
            with self.path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it was being written when the power went, and its batch was never accepted
                    rows = _read(line[:-1])
                    damaged += rows is None
                    yield from rows or ()
        if damaged:
            log.error("journal_damaged", path=str(self.path), lines=damaged)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        with _explained(self.path):
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield descriptor
            finally:
                os.close(descriptor)
            if is_new:
                _sync_directory(self.path.parent)


@dataclass(frozen=True)
class Reconciled:
    """Rows that the ledger learnt from the journal, and the journal from the ledger."""

    restored: int
    written: int


def reconcile(spool: Spool) -> Reconciled:
    """Let ledger and journal know the same: after it nothing that either of them ever knew is forgotten.

    The ledger lacks what was lost with a damaged spool, or with one that was put back from a backup; the journal what an earlier
    version released. Raises SpoolError when one of them cannot be written.
    """
    journal = Journal.of(spool)
    with spool.transaction() as transaction:
        columns = {row[1] for row in transaction.execute("PRAGMA table_info(ledger)")} - {"restored"}
        # Of each release only a number is kept in memory: a device may have made a hundred thousand.
        known: set[int] = set()
        restored = 0
        for row in journal.rows():
            known.add(_number(row))
            restored += _restore(transaction, {name: row[name] for name in row if name in columns})
        written = _write_unknown(transaction, journal, known)
    return Reconciled(restored, written)


def _restore(transaction: sqlite3.Connection, row: Row) -> int:
    """A row of the journal into the ledger, flagged, unless it is there; of two lines for one release the later holds.

    But the price is the dearest that any of them names: nothing that was promised later takes back what was disclosed.
    """
    key = (row["image"], row["release"])
    there = transaction.execute("SELECT * FROM ledger WHERE image = ? AND release = ?", key).fetchone()
    if there is not None:
        row = _dearer(row, {name: there[name] for name in _PRICE if name in row})
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


def _dearer(row: Row, other: Row) -> Row:
    """The row with the dearer price of the two; one that is not known is no price."""
    mu, known = row.get("mu"), other.get("mu")
    if not isinstance(known, float | int) or (isinstance(mu, float | int) and mu >= known):
        return row
    return {**row, **other}


def _reprice(transaction: sqlite3.Connection, row: Row, mu: float | None) -> None:
    """Write a dearer price of the journal to a row that is otherwise as it should be."""
    if isinstance(row.get("mu"), float | int) and row["mu"] != mu:
        transaction.execute(
            "UPDATE ledger SET clip_norm = ?, norm_bound = ?, mu = ? WHERE image = ? AND release = ?",
            [row.get(name) for name in (*_PRICE, "image", "release")],
        )


def _write_unknown(transaction: sqlite3.Connection, journal: Journal, known: set[int]) -> int:
    """Rows of the ledger that the journal does not have into the journal; returns how many."""
    if transaction.execute("SELECT count(*) FROM ledger").fetchone()[0] == len(known):
        return 0
    written = 0
    block: list[dict[str, Value]] = []
    for row in transaction.execute("SELECT * FROM ledger"):
        if _number(row) not in known:
            block.append({name: row[name] for name in row.keys() if name != "restored"})  # noqa: SIM118 - a sqlite3.Row
        if len(block) == _BLOCK_ROWS:
            journal.append(block)
            written += len(block)
            block = []
    journal.append(block)
    return written + len(block)


def _number(row: Row | sqlite3.Row) -> int:
    """What stands for a release in memory, as good as unique within this process."""
    return hash((row["image"], row["release"]))


def _line(text: str) -> bytes:
    content = text.encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _read(line: bytes) -> list[dict[str, Value]] | None:
    """The rows of one line; None when it is not what was written."""
    crc, _, content = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(content):
        return None
    try:
        batch = json.loads(content)
        rows = [dict(zip(batch["columns"], row, strict=True)) for row in batch["rows"]]
    except (ValueError, KeyError, TypeError):
        return None
    return rows if all("image" in row and "release" in row for row in rows) else None


def _whole_length(descriptor: int) -> int:
    """Bytes up to and with the last end of a line: what comes after it was torn off by a power cut."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        first = max(0, end - 65_536)
        place = os.pread(descriptor, end - first, first).rfind(b"\n")
        if place >= 0:
            return first + place + 1
        end = first
    return 0


def _write_at(descriptor: int, content: bytes, place: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise SpoolFull(
                f"the disk is full: nothing can be added to {path}; free some space and try again"
            ) from error
        raise SpoolError(
            f"the record of releases {path} cannot be used: {error.strerror or error}; check the directory"
        ) from error
