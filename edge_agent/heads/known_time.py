"""A time that has surely passed, by others' clocks: what the server or the owner wrote on a letter, and the seconds since.

A device's own wall clock may be decades off, so that nothing is decided by it. Only the server and the client's owner can put
letters into an inbox, and the kernel counts the seconds between them. The time known this way may be behind; it is ahead only
when one of those clocks was.

One letter cannot put it far ahead: what it says counts up to 400 days past the latest moment that a trusted key has signed, or as
it stands when the device's own clock says the same. The device's clock alone decides nothing.
"""

import sqlite3
from collections.abc import Sequence

from edge_agent.clock import Moment, elapsed_seconds

MAX_AHEAD_SECONDS = 400 * 86_400.0
"""How far past the latest signed moment a letter may put the time."""
AGREEMENT_SECONDS = 86_400.0
"""How far apart a letter and the device's own clock may be and still say the same."""
_WORTH_NOTING_SECONDS = 60.0


def note(connection: sqlite3.Connection, published_at: float, moment: Moment, wall_unix: float) -> None:
    """Write down the time on a letter, as far as it can be believed, when it is a minute or more ahead of what is known.

    published_at: unix seconds by the sender's clock.
    moment: when the letter came.
    wall_unix: unix seconds by this device's own clock, which may be anything.
    """
    agreed = abs(published_at - wall_unix) <= AGREEMENT_SECONDS
    bound = None if agreed else _bound(connection)
    if not agreed and bound is None:
        return  # nothing here can say that it is so
    believed = published_at if bound is None else min(published_at, bound)
    if not believed >= known(connection, moment) + _WORTH_NOTING_SECONDS:
        return
    connection.execute(
        "INSERT OR REPLACE INTO known_time (only, unix_seconds, anchor_boot, anchor_seconds, agreed) VALUES (1, ?, ?, ?, ?)",
        (believed, moment.boot, moment.seconds, agreed),
    )


def note_signed(connection: sqlite3.Connection, key: str, issued_at: float) -> None:
    """Remember the latest moment that a key has signed; '' stands for heads that need no key."""
    connection.execute(
        "INSERT INTO signed_times (key, issued_at) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET issued_at = max(issued_at, excluded.issued_at)",
        (key, issued_at),
    )


def forget_signed(connection: sqlite3.Connection, kept: Sequence[str]) -> None:
    """Only these keys are trusted from now on: what others have signed says nothing of the time either."""
    marks = ", ".join("?" * len(kept))
    connection.execute(f"DELETE FROM signed_times WHERE key NOT IN ({marks})", tuple(kept))  # noqa: S608


def forget(connection: sqlite3.Connection) -> None:
    """The operator's word that the time known here is wrong: the next letter says it anew."""
    connection.execute("DELETE FROM known_time")


def known(connection: sqlite3.Connection, moment: Moment) -> float:
    """Unix seconds that have surely passed; 0 before the first letter that could be believed."""
    row = connection.execute(
        "SELECT unix_seconds, anchor_boot, anchor_seconds, agreed FROM known_time"
    ).fetchone()
    if row is None:
        return 0.0
    elapsed = elapsed_seconds(float(row[0]), Moment(row[1], row[2]), moment)
    bound = _bound(connection)
    return elapsed if row[3] or bound is None else min(elapsed, bound)


def _bound(connection: sqlite3.Connection) -> float | None:
    latest = connection.execute("SELECT max(issued_at) FROM signed_times").fetchone()[0]
    return None if latest is None else float(latest) + MAX_AHEAD_SECONDS
