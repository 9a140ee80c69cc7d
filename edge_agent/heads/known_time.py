"""A time that has surely passed, by others' clocks: what the server or the owner wrote on a letter, and the seconds since.

A device's own wall clock may be decades off, so that nothing is decided by it. Only the server and the client's owner can put
letters into an inbox, and the kernel counts the seconds between them. The time known this way may be behind; it is ahead only
when one of those clocks was.
"""

import sqlite3

from edge_agent.clock import Moment, elapsed_seconds

_WORTH_NOTING_SECONDS = 60.0


def note(connection: sqlite3.Connection, published_at: float, moment: Moment) -> None:
    """Write down the time on a letter, when it is a minute or more ahead of what is known.

    published_at: unix seconds by the sender's clock.
    moment: when the letter came.
    """
    if published_at < known(connection, moment) + _WORTH_NOTING_SECONDS:
        return
    connection.execute(
        "INSERT INTO known_time (only, unix_seconds, anchor_boot, anchor_seconds) VALUES (1, ?, ?, ?)"
        " ON CONFLICT (only) DO UPDATE SET unix_seconds = excluded.unix_seconds,"
        " anchor_boot = excluded.anchor_boot, anchor_seconds = excluded.anchor_seconds",
        (published_at, moment.boot, moment.seconds),
    )


def known(connection: sqlite3.Connection, moment: Moment) -> float:
    """Unix seconds that have surely passed; 0 before the first letter."""
    row = connection.execute("SELECT unix_seconds, anchor_boot, anchor_seconds FROM known_time").fetchone()
    return 0.0 if row is None else elapsed_seconds(float(row[0]), Moment(row[1], row[2]), moment)
