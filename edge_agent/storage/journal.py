"""A second record of what was released, beside the spool: lines that are only ever appended.

The spool may be damaged, and then everything in it can be made or asked for again, except the knowledge of which images have been
released. So each batch is written here, and is on the disk, before the transaction that accepts it commits. A batch that stands
here and not in the ledger was either interrupted or lost with a spool: it counts as released.

Each line is a CRC-32 in hexadecimal, a space, and a JSON object {"columns": [...], "rows": [[...], ...]} of the ledger's columns,
or {"incomplete_since": ..., "acknowledged": ...}: that something is missing, and whether the operator knows.
"""

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeGuard

import structlog

from edge_agent.errors import JournalUnusable
from edge_agent.storage.spool import Spool, explained
from edge_agent.storage.state import JOURNAL_NAME
from export.files import flush_directory

log = structlog.get_logger(__name__)

PRICE = ("clip_norm", "norm_bound", "mu")
"""What one release costs, and whence: columns of the ledger."""
_NUMBERS = (*PRICE, "released_at")
_INTEGERS = 2**63

Value = str | int | float | None
Row = Mapping[str, Value]


class Journal:
    """The file; any number of processes may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, spool: Spool) -> "Journal":
        """The one that belongs to a spool."""
        return cls(spool.path.with_name(JOURNAL_NAME))

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows of the ledger, all with the same columns, as one line; on the disk when this returns.

        Raises SpoolFull when the disk has no room, JournalUnusable when the file cannot be written; nothing is added then.
        """
        if not rows:
            return
        columns = list(rows[0])
        self._append({"columns": columns, "rows": [[row[name] for name in columns] for row in rows]})

    def _append(self, content: Mapping[str, object]) -> None:
        text = json.dumps(content)
        with self._locked() as descriptor:
            end = _whole_length(descriptor)
            os.ftruncate(descriptor, end)
            try:
                _write_at(descriptor, _line(text), end)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise

    def note(self, since: int, acknowledged: int) -> None:
        """Add what is known of losses (see `edge_agent.storage.loss`), as a line of its own; raises as `append` does."""
        self._append({"incomplete_since": since, "acknowledged": acknowledged})

    def mark(self, end: int) -> dict[str, int] | None:
        """What says that the file was read up to `end`; None when it is not there."""
        with contextlib.suppress(OSError):
            return {"inode": self.path.stat().st_ino, "end": end}
        return None

    def start(self, mark: object) -> int:
        """From where to read what has been added since the mark was made: 0 when this is not the file as it was then."""
        if not isinstance(mark, dict) or not isinstance(mark.get("end"), int) or mark["end"] <= 0:
            return 0
        with _explained(self.path):
            if not self.path.exists() or self.path.stat().st_ino != mark.get("inode"):
                return 0
            with self.path.open("rb") as file:
                file.seek(mark["end"] - 1)
                return mark["end"] if file.read(1) == b"\n" else 0

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
                flush_directory(self.path.parent)


class Scan:
    """One reading of the file, from a place between two lines.

    damaged: lines that are not what was written;  end: how far it has been read;  missing: whether there was no file;
    since, acknowledged: what the lines know of losses. They are known once `rows` has come to its end.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.damaged = 0
        self.start = start
        self.end = start
        self.missing = False
        self.since = 0
        self.acknowledged = 0
        self.path = path

    def rows(self) -> Iterator[Row]:
        """The releases, oldest first; damaged lines are passed over and reported. Raises JournalUnusable if it cannot be read."""
        with _explained(self.path):
            self.missing = not self.path.exists()
            if self.missing:
                return
            with self.path.open("rb") as file:
                file.seek(self.end)
                for line in file:
                    if not line.endswith(b"\n"):
                        # It was being written when the power went, and its batch was never accepted; but a file without
                        # any whole line is not what somebody goes on with.
                        self.damaged += self.end == 0
                        break
                    self.end += len(line)
                    yield from self._read(line[:-1])
        if self.damaged:
            log.error("journal_damaged", path=str(self.path), lines=self.damaged)

    def _read(self, line: bytes) -> Sequence[Row]:
        content = _content(line)
        if content is not None and "incomplete_since" in content:
            since, acknowledged = content["incomplete_since"], content.get("acknowledged")
            if _is_whole(since) and _is_whole(acknowledged):
                self.since = max(self.since, since)
                self.acknowledged = max(self.acknowledged, acknowledged)
                return ()
        rows = None if content is None else _rows(content)
        self.damaged += rows is None
        return rows or ()


def is_row(row: Mapping[str, object]) -> bool:
    """Whether these are values that a row of the ledger can have, of types that the database takes."""
    return (
        isinstance(row.get("image"), str)
        and _is_whole(row.get("release"))
        and all(isinstance(row.get(name), float | int | None) for name in _NUMBERS)
        and all(_fits(value) for value in row.values())
    )


def _fits(value: object) -> bool:
    if isinstance(value, str):
        return value.isprintable()  # so it holds no half of a character either
    if isinstance(value, int):
        return -_INTEGERS <= value < _INTEGERS
    return value is None or isinstance(value, float)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _INTEGERS


def _line(text: str) -> bytes:
    content = text.encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _content(line: bytes) -> dict[str, Any] | None:
    """The object of one line; None when it is not what was written."""
    crc, _, content = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(content):
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _rows(content: Mapping[str, Any]) -> list[Row] | None:
    """The rows of a batch; None when it is none."""
    try:
        rows: list[Row] = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
    except (ValueError, KeyError, TypeError):
        return None
    return rows if all(is_row(row) for row in rows) else None


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


def _explained(path: Path) -> AbstractContextManager[None]:
    return explained(f"the record of releases {path}", JournalUnusable)
