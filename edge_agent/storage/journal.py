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

    def rows(self) -> list[dict[str, Value]]:
        """Everything that was ever appended, oldest first; a line that is damaged is passed over and reported."""
        with _explained(self.path):
            content = self.path.read_bytes() if self.path.exists() else b""
        found: list[dict[str, Value]] = []
        damaged = 0
        # What follows the last end of a line was being written when the power went, and its batch was never accepted.
        for line in content.split(b"\n")[:-1]:
            rows = _read(line)
            damaged += rows is None
            found += rows or []
        if damaged:
            log.error("journal_damaged", path=str(self.path), lines=damaged)
        return found

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
        known = {_key(row): row for row in journal.rows()}
        there = {_key(row): dict(row) for row in transaction.execute("SELECT * FROM ledger")}
        lost = [row for key, row in known.items() if key not in there]
        unwritten = [_without_flag(row) for key, row in there.items() if key not in known]
        for first in range(0, len(unwritten), _BLOCK_ROWS):
            journal.append(unwritten[first : first + _BLOCK_ROWS])
        restored = _restore(transaction, lost)
    return Reconciled(restored, len(unwritten))


def _restore(transaction: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Rows into the ledger, flagged; of what a line says only the columns that the ledger has."""
    columns = {row[1] for row in transaction.execute("PRAGMA table_info(ledger)")}
    restored = 0
    for row in rows:
        names = [name for name in row if name in columns and name != "restored"]
        places = ", ".join("?" * len(names))
        restored += transaction.execute(
            f"INSERT OR IGNORE INTO ledger ({', '.join(names)}, restored) VALUES ({places}, 1)",  # noqa: S608 - known columns
            [row[name] for name in names],
        ).rowcount
    return restored


def _key(row: Row | sqlite3.Row) -> tuple[Value, Value]:
    return row["image"], row["release"]


def _without_flag(row: Row) -> dict[str, Value]:
    return {name: value for name, value in row.items() if name != "restored"}


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
