"""The heads that this device was given: a row for each, a file for those that may still run.

    receiving → staged → trial → live → previous → retired
        └→ refused  └→ failed └→ rolled_back ←┘

There is at most one of each state on the way. A file is written whole before its row says that it is there, and removed after its
row says that it is not needed: whatever the moment of a power cut, what a row promises can be loaded.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import structlog

from edge_agent import clock
from edge_agent.heads import reasons
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

State = Literal[
    "receiving", "staged", "trial", "live", "previous", "retired", "refused", "failed", "rolled_back"
]
STATES: tuple[State, ...] = get_args(State)
WITH_FILE: tuple[State, ...] = ("staged", "trial", "live", "previous")
REMEMBERED = 100
"""Heads that were refused, and as many that ended otherwise, of which a row is kept."""
_DETAIL_CHARACTERS = 300
_KEY_REVOKED: Final = "head_key_revoked"


@dataclass(frozen=True)
class HeadRow:
    """One head; `bundle` is the SHA-256 of its file. For the other fields see the table."""

    bundle: str
    name: str
    version: str
    counter: int
    state: State
    reason: str | None
    detail: str | None
    attempts: int
    starts: int
    images: int
    work_seconds: float
    allow_older: bool
    manifest: str | None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name} {self.version} (counter {self.counter})"


_COLUMNS = (
    "bundle, name, version, counter, state, reason, detail, attempts, starts, images, work_seconds, allow_older,"
    " manifest"
)


def path_of(directory: Path, bundle: str) -> Path:
    """Where the file of a head lies."""
    return directory / f"{bundle}.bundle"


def find(connection: sqlite3.Connection, bundle: str) -> HeadRow | None:
    """What is known of a head."""
    return _first(connection, "WHERE bundle = ?", (bundle,))


def in_state(connection: sqlite3.Connection, state: State) -> HeadRow | None:
    """The head in one of the states of which there is at most one."""
    return _first(connection, "WHERE state = ?", (state,))


def of_manifest(connection: sqlite3.Connection, manifest_digest: str) -> list[HeadRow]:
    """The heads of which this manifest was vouched for, whatever became of them."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM heads WHERE manifest = ?", (manifest_digest,))  # noqa: S608
    return [_row(row) for row in rows]


def last_changed(connection: sqlite3.Connection) -> HeadRow | None:
    """The head that something happened to last."""
    return _first(connection, "ORDER BY changed DESC LIMIT 1", ())


def last_state(spool: Spool) -> State | None:
    """The state of that head; takes no lock."""
    row = spool.row("SELECT state FROM heads ORDER BY changed DESC LIMIT 1")
    return None if row is None else row["state"]


def coming(spool: Spool) -> State | None:
    """How far the head is that was not checked yet: "staged" when one is whole, else "receiving"; takes no lock."""
    row = spool.row(
        "SELECT state FROM heads WHERE state IN ('receiving', 'staged') ORDER BY state = 'staged' DESC LIMIT 1"
    )
    return None if row is None else row["state"]


def change_count(connection: sqlite3.Connection) -> int:
    """Rises with every change of any head."""
    return int(connection.execute("SELECT coalesce(max(changed), 0) FROM heads").fetchone()[0])


def all_of(spool: Spool) -> list[HeadRow]:
    """Every head that is remembered, the last changed first."""
    return [_row(row) for row in spool.rows(f"SELECT {_COLUMNS} FROM heads ORDER BY changed DESC")]  # noqa: S608


def held(connection: sqlite3.Connection) -> list[HeadRow]:
    """The heads that are in use or about to be."""
    states: tuple[State, ...] = ("staged", "trial", "live")
    return [row for row in (in_state(connection, state) for state in states) if row is not None]


def put(
    connection: sqlite3.Connection,
    bundle: str,
    *,
    name: str,
    version: str,
    counter: int,
    state: State,
    reason: str | None = None,
    detail: str | None = None,
    manifest: str | None = None,
    allow_older: bool = False,
) -> None:
    """Write a head down as new, whatever was known of it."""
    moment = clock.now()
    connection.execute(
        "INSERT INTO heads (bundle, name, version, counter, manifest, state, reason, detail, allow_older,"
        " since_boot, since_seconds, changed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(changed), 0) + 1 FROM heads))"
        " ON CONFLICT (bundle) DO UPDATE SET name = excluded.name, version = excluded.version,"
        " counter = excluded.counter, manifest = excluded.manifest, state = excluded.state,"
        " reason = excluded.reason, detail = excluded.detail, attempts = 0, starts = 0, images = 0, work_seconds = 0,"
        " allow_older = excluded.allow_older, since_boot = excluded.since_boot,"
        " since_seconds = excluded.since_seconds, changed = excluded.changed",
        (
            bundle,
            name,
            version,
            counter,
            manifest,
            state,
            reason,
            (detail or "")[:_DETAIL_CHARACTERS] or None,
            allow_older,
            moment.boot,
            moment.seconds,
        ),
    )
    _forget_old(connection)


def move(
    connection: sqlite3.Connection,
    bundle: str,
    state: State,
    *,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    """Take a head to another state; what was counted in the old one begins anew."""
    moment = clock.now()
    connection.execute(
        "UPDATE heads SET state = ?, reason = ?, detail = ?, starts = 0, images = 0, work_seconds = 0,"
        " since_boot = ?, since_seconds = ?, changed = (SELECT max(changed) + 1 FROM heads) WHERE bundle = ?",
        (state, reason, (detail or "")[:_DETAIL_CHARACTERS] or None, moment.boot, moment.seconds, bundle),
    )


def touch(connection: sqlite3.Connection, bundle: str) -> None:
    """Count as changed what was asked about, so that it is reported again."""
    connection.execute(
        "UPDATE heads SET changed = (SELECT max(changed) + 1 FROM heads) WHERE bundle = ?", (bundle,)
    )


def displace(connection: sqlite3.Connection, state: State, into: State, reason: str | None = None) -> None:
    """Make room in a state of which there is at most one; says nothing new of the head that has to go."""
    moment = clock.now()
    connection.execute(
        "UPDATE heads SET state = ?, reason = ?, since_boot = ?, since_seconds = ? WHERE state = ?",
        (into, reason, moment.boot, moment.seconds, state),
    )


def stage(connection: sqlite3.Connection, bundle: str) -> None:
    """The file of this head is there: it is the next to be checked, in place of any other."""
    displace(connection, "staged", "refused", reasons.SUPERSEDED)
    move(connection, bundle, "staged")


def promote(connection: sqlite3.Connection, bundle: str) -> None:
    """The trial went well: this head is the live one, the one before it stays in reserve."""
    displace(connection, "previous", "retired")
    displace(connection, "live", "previous")
    move(connection, bundle, "live")


def roll_back(connection: sqlite3.Connection, bundle: str, reason: str, detail: str) -> None:
    """Give up a head that was on trial or live; in place of a live one comes the one before it."""
    was_live = connection.execute(
        "SELECT 1 FROM heads WHERE bundle = ? AND state = 'live'", (bundle,)
    ).fetchone()
    move(connection, bundle, "rolled_back", reason=reason, detail=detail)
    if was_live:
        displace(connection, "previous", "live")


def forget_other_files(connection: sqlite3.Connection, bundle: str) -> None:
    """Forget how the same head, under other signatures, came to its end here."""
    connection.execute(
        "DELETE FROM heads WHERE manifest = (SELECT manifest FROM heads WHERE bundle = ?1) AND bundle <> ?1"
        " AND state IN ('failed', 'rolled_back')",
        (bundle,),
    )


def drop_incoming(connection: sqlite3.Connection, reason: str) -> None:
    """Stop receiving: the pieces go, and the bundle that was on its way counts as refused."""
    displace(connection, "receiving", "refused", reason)
    connection.execute("DELETE FROM incoming_head")
    connection.execute("DELETE FROM head_chunks")


def note_start(connection: sqlite3.Connection, bundle: str, starts: int) -> None:
    """Write down, before it happens, that a check or a use begins; or after one has ended in order, that it has."""
    connection.execute(
        "UPDATE heads SET starts = max(0, starts + ?), start_boot = ? WHERE bundle = ?",
        (starts, clock.now().boot if starts > 0 else None, bundle),
    )


def note_proven(connection: sqlite3.Connection, bundle: str) -> None:
    """The head has worked since it was taken up: no start counts against it."""
    connection.execute("UPDATE heads SET starts = 0, start_boot = NULL WHERE bundle = ?", (bundle,))


def forgive_reboots(connection: sqlite3.Connection) -> None:
    """A start that a reboot of the machine has ended, a power cut perhaps, says nothing against the head."""
    connection.execute(
        "UPDATE heads SET starts = max(0, starts - 1), start_boot = NULL WHERE start_boot <> ?",
        (clock.now().boot,),
    )


def note_work(connection: sqlite3.Connection, bundle: str, images: int, seconds: float) -> None:
    """Add to what a head has done on trial."""
    connection.execute(
        "UPDATE heads SET images = images + ?, work_seconds = work_seconds + ? WHERE bundle = ?",
        (images, seconds, bundle),
    )


def note_key_revoked(connection: sqlite3.Connection, revoked: bool) -> None:
    """Write down whether the head in use is one whose key is trusted no longer; telemetry tells it with the counters."""
    counters.put(connection, _KEY_REVOKED, revoked)


def key_revoked(spool: Spool) -> bool:
    """Whether the head in use, when an agent looked last, was one whose key is trusted no longer."""
    return bool(counters.value(spool, _KEY_REVOKED))


def reconcile(spool: Spool, directory: Path) -> None:
    """After a start: no row promises a file that is not there, and no file lies there that no row needs."""
    with spool.transaction() as transaction:
        for state in WITH_FILE:
            row = in_state(transaction, state)
            if row is not None and not path_of(directory, row.bundle).exists():
                log.error("head_file_missing", head=row.title, state=state)
                detail = "its file is gone from the state directory"
                roll_back(transaction, row.bundle, reasons.FILE_MISSING, detail)
    for draft in directory.glob(".*"):
        draft.unlink(missing_ok=True)
    remove_unneeded(spool, directory)


def remove_unneeded(spool: Spool, directory: Path) -> None:
    """Delete the files of heads that will not run again; nothing that a row needs."""
    with spool.transaction() as transaction:
        # Within the transaction, so that no other process stages a head between the look and the deed.
        needed = {
            path_of(directory, row.bundle).name
            for row in (in_state(transaction, state) for state in WITH_FILE)
            if row is not None
        }
        for path in directory.glob("*.bundle"):
            if path.name not in needed:
                path.unlink(missing_ok=True)


def _forget_old(connection: sqlite3.Connection) -> None:
    """Bound what is remembered; what was merely refused, which anybody can bring about, displaces nothing else."""
    for states in (("refused",), ("retired", "failed", "rolled_back")):
        marks = ", ".join("?" * len(states))
        connection.execute(
            f"DELETE FROM heads WHERE bundle IN (SELECT bundle FROM heads WHERE state IN ({marks})"  # noqa: S608
            " ORDER BY changed DESC LIMIT -1 OFFSET ?)",
            (*states, REMEMBERED),
        )


def _first(connection: sqlite3.Connection, where: str, parameters: Sequence[str]) -> HeadRow | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM heads {where}", parameters).fetchone()  # noqa: S608
    return None if row is None else _row(row)


def _row(row: sqlite3.Row) -> HeadRow:
    fields = dict(row)
    return HeadRow(**(fields | {"allow_older": bool(fields["allow_older"])}))
