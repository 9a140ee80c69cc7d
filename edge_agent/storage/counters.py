"""Numbers that survive restarts, by name.

Every name is declared here, and mypy knows no other: the device's reports have room for so many and no more.
"""

import sqlite3
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from edge_agent.storage.spool import Spool

Name = Literal[
    "backbone_version_heard",
    "duplicate",
    "forgotten_completed",
    "forgotten_expired",
    "forgotten_failed",
    "head_announcements",
    "head_announcements_declined",
    "head_chunks",
    "head_chunks_declined",
    "head_key_revoked",
    "jobs_from_pool",
    "late",
    "ledger_incomplete_since",
    "ledger_loss_acknowledged",
    "metered_images",
    "metered_millijoules",
    "refused_releases",
    "spool_began_anew",
    "strangers",
    "telemetry_sequence",
]
FORGOTTEN: Mapping[str, Name] = MappingProxyType(
    {
        "completed": "forgotten_completed",
        "failed": "forgotten_failed",
        "expired": "forgotten_expired",
    }
)
"""How a job ended → the counter of such jobs that housekeeping forgot."""


def add(transaction: sqlite3.Connection, name: Name, count: int = 1) -> int:
    """Let a counter rise by `count`; returns how it stands now."""
    row = transaction.execute(
        "INSERT INTO counters (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value RETURNING value",
        (name, count),
    ).fetchone()
    return int(row[0])


def put(transaction: sqlite3.Connection, name: Name, value: int) -> None:
    """Let a counter stand at `value`."""
    transaction.execute(
        "INSERT INTO counters (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def value(spool: Spool, name: Name) -> int:
    """How a counter stands; 0 when nothing was ever counted."""
    row = spool.row("SELECT value FROM counters WHERE name = ?", (name,))
    return 0 if row is None else int(row[0])
