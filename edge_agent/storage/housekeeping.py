"""What is no longer needed goes: ended jobs with their pictures, what crashes left behind, and the disk of deleted rows.

How long something has been kept is counted twice, by the wall clock and by the seconds that agents have run here, and both must
agree before it goes for its age: a clock that jumps by years removes nothing, and neither does a device that lay switched off.
The price is that a device which runs an hour a day keeps things for longer than it was told; the quota bounds that.
"""

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import structlog

from edge_agent.storage import counters, notes, quarantine
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.metrics import EdgeMetrics

log = structlog.get_logger(__name__)

_RUNNING_SECONDS = "running_seconds"
_TURN_SECONDS = 60.0
_BUSY_TURN_SECONDS = 1.0
_PER_TURN = 100
_DAY_SECONDS = 86_400.0
_TO_FETCH_SECONDS = 60.0
"""For so long pictures stay whatever the quota: whoever asked for them is only just being told that they are there."""
LEAST_FREE_BYTES = 32 * 2**20
"""With less than that a disk counts as full."""
_LEFT_BY_CRASHES = (".draft", ".gone")
_ENDED = "('completed', 'failed', 'expired')"


@dataclass(frozen=True)
class _Entry:
    """An ended job, or a folder without one; `sequence` says in which order they go when there is no room."""

    name: str
    sequence: int
    size_bytes: int
    noticed_at: float
    noticed_running: float


@dataclass(frozen=True)
class Keeping:
    """For how long, and up to how many bytes, ended jobs and their pictures are kept."""

    keep_days: float
    max_bytes: int


class Housekeeper:
    """A duty of the agent: once a minute a little of everything, so that nothing else has to wait for long.

    While there is more to do than a turn does, the next follows at once.

    spool, state: the agent's; it is called in the agent's thread.
    keeping: see there.  metrics: told what lies in quarantine.
    wall_seconds, running_seconds: the two clocks; the second may begin anywhere and never jumps.
    """

    def __init__(
        self,
        spool: Spool,
        state: StateDirectory,
        keeping: Keeping,
        metrics: EdgeMetrics,
        *,
        wall_seconds: Callable[[], float] = time.time,
        running_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._state = state
        self._keeping = keeping
        self._metrics = metrics
        self._wall_seconds = wall_seconds
        self._running_seconds = running_seconds
        self._counted_to = running_seconds()
        self._next_at = self._counted_to
        self._swept = False
        self._stuck: set[str] = set()

    def turn(self) -> None:
        """Do what is due. Raises SpoolFull when the disk has no room, after having made what room there is to make."""
        if self._running_seconds() < self._next_at:
            return
        self._next_at = self._running_seconds() + _TURN_SECONDS
        self._metrics.quarantined_spools.set(len(quarantine.names(self._state)))
        self._state.results("").mkdir(exist_ok=True)  # somebody may have removed it with everything in it
        if not self._swept:
            sweep(self._state)
            self._swept = True
        known = [_Entry(*row) for row in self._spool.rows("SELECT * FROM kept")]
        counted_to = self._running_seconds()
        running = self._running_before() + counted_to - self._counted_to
        fresh = self._unnoticed(running)
        doomed = self._doomed([*known, *fresh], running)
        doomed = [name for name in doomed if self._remove_folder(name)]
        self._write_down(fresh, doomed, running)
        self._counted_to = counted_to
        if max(len(fresh), len(doomed)) >= _PER_TURN:  # there is more: the quota counts only what was noticed
            self._next_at = counted_to + _BUSY_TURN_SECONDS
        if doomed:
            log.info("jobs_forgotten", count=len(doomed))
        self._spool.give_back_disk()

    def _running_before(self) -> float:
        """Seconds that agents had run on this directory when that was last written down."""
        seconds = notes.read(self._spool, _RUNNING_SECONDS)
        # Unreadable: what is kept is younger than it was, and stays for longer.
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    def _write_down(self, fresh: list[_Entry], doomed: list[str], running: float) -> None:
        """All of a turn in one transaction: the time, what is new, and what is gone."""
        now = self._wall_seconds()
        with self._spool.transaction() as transaction:
            notes.write(transaction, _RUNNING_SECONDS, running)
            transaction.executemany(
                "INSERT INTO kept (name, sequence, size_bytes, noticed_at, noticed_running) VALUES (?, ?, ?, ?, ?)",
                [astuple(entry) for entry in fresh],
            )
            # Noticed in what is now the future: the clock was wrong then, or is now.
            transaction.execute("UPDATE kept SET noticed_at = ? WHERE noticed_at > ?", (now, now))
            for name in doomed:
                _forget(transaction, name)

    def _unnoticed(self, running: float) -> list[_Entry]:
        """What has ended since the last look, and folders without a job, which are older than any job."""
        ended = self._spool.rows(
            f"SELECT job_id, sequence FROM jobs WHERE state IN {_ENDED}"  # noqa: S608 - a constant
            " AND job_id NOT IN (SELECT name FROM kept) ORDER BY sequence LIMIT ?",
            (_PER_TURN,),
        )
        strays = [(name, 0) for name in self._strays()[:_PER_TURN]]
        now = self._wall_seconds()
        return [
            _Entry(name, sequence, _size_bytes(self._state.results(name)), now, running)
            for name, sequence in (*ended, *strays)
        ]

    def _strays(self) -> list[str]:
        """Folders of pictures whose jobs went with a damaged spool."""
        known = {row[0] for row in self._spool.rows("SELECT job_id FROM jobs UNION SELECT name FROM kept")}
        with os.scandir(self._state.results("")) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name not in known and not entry.name.startswith(".") and Path(entry).is_dir()
            )

    def _doomed(self, entries: list[_Entry], running: float) -> list[str]:
        """What goes now: the old by both clocks, then the oldest with pictures until the rest fits; never the newest.

        For want of room nothing goes that ended a moment ago, which somebody may be about to fetch, unless the disk is full.
        """
        keep_seconds = self._keeping.keep_days * _DAY_SECONDS
        entries = sorted(entries, key=lambda entry: (entry.sequence, entry.noticed_running, entry.name))
        total_bytes = sum(entry.size_bytes for entry in entries)
        spare_seconds = 0.0 if self._disk_is_full() else _TO_FETCH_SECONDS
        doomed = []
        for place, entry in enumerate(entries):
            age_seconds = min(self._wall_seconds() - entry.noticed_at, running - entry.noticed_running)
            over = total_bytes > self._keeping.max_bytes and entry.size_bytes and place < len(entries) - 1
            spared = bool(entry.sequence) and running - entry.noticed_running < spare_seconds
            if age_seconds > keep_seconds or (over and not spared):
                doomed.append(entry.name)
                total_bytes -= entry.size_bytes
        return doomed[:_PER_TURN]

    def _disk_is_full(self) -> bool:
        return shutil.disk_usage(self._state.path).free < LEAST_FREE_BYTES

    def _remove_folder(self, name: str) -> bool:
        """Before the job is forgotten: a folder without its job would be a stray. False when it has to stay."""
        folder = self._state.results(name)
        try:
            if folder.is_dir():
                gone = folder.with_name(f".{name}.gone")
                shutil.rmtree(gone, ignore_errors=True)
                folder.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        except OSError as error:
            if name not in self._stuck:
                self._stuck.add(name)
                log.warning("folder_not_removed", folder=str(folder), error=str(error))
            return False
        self._stuck.discard(name)
        return True


def sweep(state: StateDirectory) -> None:
    """Remove what processes that were killed had begun to write or to delete. No job may be being finished meanwhile."""
    for path in state.results("").iterdir():
        if path.name.startswith(".") and path.suffix in _LEFT_BY_CRASHES:
            shutil.rmtree(path, ignore_errors=True)
    for path in state.path.glob(".*.[0-9]*"):
        maker = path.name.rpartition(".")[2].partition("-")[0]
        if maker.isdigit() and not Path(f"/proc/{maker}").exists():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _forget(transaction: sqlite3.Connection, name: str) -> None:
    """A job goes; how it ended is counted for ever."""
    row = transaction.execute("SELECT state FROM jobs WHERE job_id = ?", (name,)).fetchone()
    if row is not None and row[0] in counters.FORGOTTEN:
        counters.add(transaction, counters.FORGOTTEN[row[0]])
    transaction.execute("DELETE FROM jobs WHERE job_id = ?", (name,))
    transaction.execute("DELETE FROM kept WHERE name = ?", (name,))


def _size_bytes(folder: Path) -> int:
    """What a folder of pictures takes on the disk; 0 when it is not there."""
    total_bytes = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # one file that cannot be looked at, or is gone meanwhile
                total_bytes += entry.stat().st_blocks * 512
    return total_bytes
