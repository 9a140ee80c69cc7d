"""The device's durable memory: one SQLite file that several processes and threads share.

What a transaction here has committed survives kill -9 and a power cut (WAL, synchronous=FULL). A file that is damaged is reported
and left alone here; `edge_agent.storage.quarantine` sets it aside, so that which images have been released is not forgotten.
"""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edge_agent.errors import SpoolBusy, SpoolDamaged, SpoolError, SpoolFull, SpoolReplaced
from edge_agent.storage import migrations
from edge_agent.storage.state import JOURNAL_NAME, SECRET_NAME
from export.files import flush_directory

BUSY_SECONDS = 15.0
BEGAN_ANEW: Final = "spool_began_anew"
"""A counter of a spool that took the place of another, until somebody has looked what the journal knows of that."""
_SIGNS_OF_DAMAGE = (
    "Could not decode to UTF-8",
    "no such table",
    "no such column",
    "malformed database schema",
)
_SPARE_PAGES = 256
_SPARE_LOG_BYTES = 2**20

Parameter = str | int | float | bytes | None


class Spool:
    """One connection to the spool; each thread and each process opens its own.

    `verify` reads the whole file and checks its structure, which a start of the agent should do and a quick look need not.
    Raises SpoolDamaged when the file is not what was written, SpoolFull when the disk is full.
    """

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self.path = path
        if not path.exists():
            _create(path)
        _check_size(path)
        with _translated(path):
            self._file = _identity(path)
            self._connection = _connect(path)
        try:
            with _translated(path):
                self._prepare(verify=verify)
                self._data_version = self._read_data_version()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing of it; durable when the block has ended.

        Raises SpoolReplaced when another process has set the file aside meanwhile: what was committed went into a file that
        nobody reads any more.
        """
        with _translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself on a full disk, and then refuses a second ROLLBACK.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        self._check_place()

    def rows(self, sql: str, parameters: Sequence[Parameter] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with _translated(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Parameter] = ()) -> sqlite3.Row | None:
        """First row of a query, or None."""
        found = self.rows(sql, parameters)
        return found[0] if found else None

    def changed_elsewhere(self) -> bool:
        """Whether another connection has committed since the last call; costs some microseconds and no disk access."""
        self._check_place()
        with _translated(self.path):
            version = self._read_data_version()
        changed, self._data_version = version != self._data_version, version
        return changed

    def give_back_disk(self) -> None:
        """Return the pages of deleted rows to the file system, once there are enough of them to be worth the writing.

        While another connection reads, its part of the log has to stay; the next call returns it.
        """
        with _translated(self.path):
            free_pages = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            if free_pages < _SPARE_PAGES and _log_bytes(self.path) < _SPARE_LOG_BYTES:
                return
            # As a script, because it frees one page a step, and `execute` takes a single step of what returns no columns.
            self._connection.executescript("PRAGMA incremental_vacuum")
            # Whoever reads is not waited for: this is called by threads that have better things to do.
            self._connection.execute("PRAGMA busy_timeout = 0")
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._connection.close()

    def _check_place(self) -> None:
        try:
            replaced = _identity(self.path) != self._file
        except FileNotFoundError:
            replaced = True
        if replaced:
            raise SpoolReplaced(
                f"the spool {self.path} was found damaged and set aside meanwhile; a new one was begun: try again"
            )

    def _read_data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _prepare(self, *, verify: bool) -> None:
        if not migrations.applied(self._connection):
            raise _damaged(self.path, "it holds no tables")
        migrations.migrate(self._connection)
        if not verify:
            return
        problems = [row[0] for row in self._connection.execute("PRAGMA integrity_check(1)")]
        if problems != ["ok"]:
            raise _damaged(self.path, problems[0].splitlines()[-1])


def _create(path: Path) -> None:
    """Make the database under another name and move it into place when it is whole.

    So a spool that lacks its tables, or is empty, is always a damaged one and never one that was about to be made.
    """
    if log_of(path).exists() and not path.exists():
        # A new database under this name would take the old one's log for its own.
        raise _damaged(path, "the file is gone and its log is still there")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with _translated(path):
        draft.unlink(missing_ok=True)
        try:
            _fill(draft)
            if _lived_before(path):
                _note_new_life(draft)
            with contextlib.suppress(FileExistsError):  # another process was faster, and its spool is as good
                os.link(draft, path)
        finally:
            for left in (draft, log_of(draft), draft.with_name(f"{draft.name}-shm")):
                left.unlink(missing_ok=True)
        flush_directory(path.parent)


def _fill(draft: Path) -> None:
    """A new database with all tables, readable by its owner only."""
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")  # kept in the file
        connection.execute("PRAGMA synchronous = FULL")
        migrations.migrate(connection)
    finally:
        connection.close()
    draft.chmod(0o600)


def _lived_before(path: Path) -> bool:
    """Whether the device has released images before it had this spool, or been about to."""
    return any(path.with_name(name).exists() for name in (SECRET_NAME, JOURNAL_NAME))


def _note_new_life(draft: Path) -> None:
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("INSERT INTO counters (name, value) VALUES (?, 1)", (BEGAN_ANEW,))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{path.resolve()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_size(path: Path) -> None:
    """Refuse what SQLite would silently take for a new database; all other damage it notices itself.

    Never open the file for this: closing any descriptor of it drops the POSIX locks of this process's other connections, and then
    the next process that closes its own takes itself for the last and deletes the log that holds the newest rows.
    """
    with _translated(path):
        size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise _damaged(path, "it is empty")


def log_of(path: Path) -> Path:
    """The write-ahead log of a database."""
    return path.with_name(f"{path.name}-wal")


def _log_bytes(path: Path) -> int:
    try:
        return log_of(path).stat().st_size
    except FileNotFoundError:
        return 0


def _identity(path: Path) -> tuple[int, int]:
    """Which file it is, whatever its name; found out without opening it (see `_check_size`)."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _damaged(path: Path, what: str) -> SpoolDamaged:
    return SpoolDamaged(f"the spool {path} is damaged: {what}")


@contextlib.contextmanager
def explained(what: str, otherwise: type[SpoolError]) -> Iterator[None]:
    """Turn the errors of the file system into one line: SpoolFull when the disk has no room, `otherwise` for all else.

    what: the file, in words and with its path.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _full(what) from error
        raise otherwise(f"{what} cannot be used: {error.strerror or error}; check the directory") from error


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """The same for the spool, and for the errors of SQLite."""
    with explained(f"the spool {path}", SpoolError):
        try:
            yield
        except sqlite3.Error as error:
            raise _translate(path, error) from error
        except UnicodeDecodeError as error:  # from text of SQLite's own, such as an overwritten schema
            raise _damaged(path, f"it holds text that is none: {error.reason}") from error


def _full(what: str) -> SpoolFull:
    return SpoolFull(f"the disk is full: nothing can be added to {what}; free some space and try again")


def _translate(path: Path, error: sqlite3.Error) -> SpoolError:
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    # The index of the log, which lies in a file of its own, is enlarged before anything is written to the database.
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return _full(f"the spool {path}")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FORMAT}:
        return _damaged(path, str(error))
    # All statements here are our own: where one meets another schema, or a text that is none, that was not written by us.
    if str(error).startswith(_SIGNS_OF_DAMAGE):
        return _damaged(path, str(error))
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return SpoolBusy(
            f"the spool {path} was busy for {BUSY_SECONDS:.0f} s; is another process stuck on it?"
        )
    return SpoolError(
        f"the spool {path} cannot be used: {error}; check the directory's permissions and space"
    )
