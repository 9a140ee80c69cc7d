"""What is no longer needed goes: ended jobs with their pictures, what crashes left behind, and the disk of deleted rows.

How long something has been kept is counted twice, by the wall clock and by the seconds that agents have run here, and both must
agree before it goes for its age: a clock that jumps by years removes nothing, and neither does a device that lay switched off.
The price is that a device which runs an hour a day keeps things for longer than it was told; the quota bounds that.
"""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_agent.storage import quarantine
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.metrics import EdgeMetrics

log = structlog.get_logger(__name__)

RUNNING_SECONDS = "running_seconds"
_TURN_SECONDS = 60.0
_PER_TURN = 100
_DAY_SECONDS = 86_400.0
_LEFT_BY_CRASHES = (".draft", ".gone")
_ENDED = "('completed', 'failed', 'expired')"


@dataclass(frozen=True)
class Keeping:
    """For how long, and up to how many bytes, ended jobs and their pictures are kept."""

    keep_days: float
    max_bytes: int


class Housekeeper:
    """A duty of the agent: at most once a minute a little of everything, so that nothing else has to wait for long.

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

    def turn(self) -> None:
        """Do what is due. Raises SpoolFull when the disk has no room even for deleting."""
        if self._running_seconds() < self._next_at:
            return
        self._next_at = self._running_seconds() + _TURN_SECONDS
        self._metrics.quarantined_spools.set(len(quarantine.names(self._state)))
        if not self._swept:
            sweep(self._state)
            self._swept = True
        running = self._count_running()
        self._notice(running)
        doomed = self._doomed(running)
        for name in doomed:
            self._forget(name)
        if doomed:
            log.info("jobs_forgotten", count=len(doomed))
        self._spool.give_back_disk()

    def _count_running(self) -> float:
        """Seconds that agents have run on this directory, this one included."""
        now = self._running_seconds()
        with self._spool.transaction() as transaction:
            row = transaction.execute("SELECT value FROM agent WHERE key = ?", (RUNNING_SECONDS,)).fetchone()
            total = (0.0 if row is None else float(json.loads(row[0]))) + now - self._counted_to
            transaction.execute(
                "INSERT INTO agent (key, value) VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (RUNNING_SECONDS, json.dumps(total)),
            )
        self._counted_to = now
        return total

    def _notice(self, running: float) -> None:
        """Begin to count the time of what has ended since the last look; folders without a job are older than any job."""
        ended = self._spool.rows(
            f"SELECT job_id, sequence FROM jobs WHERE state IN {_ENDED}"  # noqa: S608 - a constant
            " AND job_id NOT IN (SELECT name FROM kept) ORDER BY sequence LIMIT ?",
            (_PER_TURN,),
        )
        strays = [(name, 0) for name in self._strays()[:_PER_TURN]]
        now = self._wall_seconds()
        rows = [
            (name, sequence, _size_bytes(self._state.results(name)), now, running)
            for name, sequence in (*ended, *strays)
        ]
        with self._spool.transaction() as transaction:
            transaction.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?)", rows)
            # Noticed in what is now the future: the clock was wrong then, or is now.
            transaction.execute("UPDATE kept SET noticed_at = ? WHERE noticed_at > ?", (now, now))

    def _strays(self) -> list[str]:
        """Folders of pictures whose jobs went with a damaged spool."""
        known = {row[0] for row in self._spool.rows("SELECT job_id FROM jobs UNION SELECT name FROM kept")}
        with os.scandir(self._state.results("")) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name not in known and not entry.name.startswith(".") and entry.is_dir()
            )

    def _doomed(self, running: float) -> list[str]:
        """What goes now: the old by both clocks, then the oldest with pictures until the rest fits; never the newest."""
        keep_seconds = self._keeping.keep_days * _DAY_SECONDS
        rows = self._spool.rows("SELECT * FROM kept ORDER BY sequence, noticed_running, name")
        total_bytes = sum(row["size_bytes"] for row in rows)
        doomed = []
        for place, row in enumerate(rows):
            age_seconds = min(self._wall_seconds() - row["noticed_at"], running - row["noticed_running"])
            over = total_bytes > self._keeping.max_bytes and row["size_bytes"] and place < len(rows) - 1
            if age_seconds > keep_seconds or over:
                doomed.append(row["name"])
                total_bytes -= row["size_bytes"]
            if len(doomed) == _PER_TURN:
                break
        return doomed

    def _forget(self, name: str) -> None:
        """The folder first: a job without it is forgotten at the next turn, a folder without its job would be a stray."""
        folder = self._state.results(name)
        if folder.is_dir():
            gone = folder.with_name(f".{name}.gone")
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        with self._spool.transaction() as transaction:
            _count_forgotten(transaction, name)
            transaction.execute("DELETE FROM jobs WHERE job_id = ?", (name,))
            transaction.execute("DELETE FROM kept WHERE name = ?", (name,))


def sweep(state: StateDirectory) -> None:
    """Remove what processes that were killed had begun to write or to delete. No job may be being finished meanwhile."""
    for path in state.results("").iterdir():
        if path.name.startswith(".") and path.suffix in _LEFT_BY_CRASHES:
            shutil.rmtree(path, ignore_errors=True)
    for path in state.path.glob(".*.[0-9]*"):
        maker = path.name.rpartition(".")[2].partition("-")[0]
        if maker.isdigit() and not Path(f"/proc/{maker}").exists():
            path.unlink(missing_ok=True)


def _count_forgotten(transaction: sqlite3.Connection, name: str) -> None:
    """Ended jobs are counted for ever, also when they are no longer there to be counted."""
    row = transaction.execute("SELECT state FROM jobs WHERE job_id = ?", (name,)).fetchone()
    if row is not None:
        transaction.execute(
            "INSERT INTO counters (name, value) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
            (f"forgotten_{row[0]}",),
        )


def _size_bytes(folder: Path) -> int:
    """What a folder of pictures takes on the disk; 0 when it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat().st_blocks * 512 for entry in entries)
    except FileNotFoundError:
        return 0
