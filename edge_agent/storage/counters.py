"""Numbers that survive restarts, by name."""

import sqlite3

from edge_agent.storage.spool import Spool


def add(transaction: sqlite3.Connection, name: str, count: int = 1) -> int:
    """Let a counter rise by `count`; returns how it stands now."""
    row = transaction.execute(
        "INSERT INTO counters (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value RETURNING value",
        (name, count),
    ).fetchone()
    return int(row[0])


def put(transaction: sqlite3.Connection, name: str, value: int) -> None:
    """Let a counter stand at `value`."""
    transaction.execute(
        "INSERT INTO counters (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def value(spool: Spool, name: str) -> int:
    """How a counter stands; 0 when nothing was ever counted."""
    row = spool.row("SELECT value FROM counters WHERE name = ?", (name,))
    return 0 if row is None else int(row[0])
