"""What the agent writes down for itself and for the commands beside it: small values by name, as JSON."""

import json
import sqlite3
from typing import Any

from edge_agent.storage.spool import Spool


def write(transaction: sqlite3.Connection, name: str, value: Any) -> None:
    """Keep a value in place of the one before it."""
    transaction.execute(
        "INSERT INTO agent (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (name, json.dumps(value)),
    )


def read(spool: Spool, name: str) -> Any:
    """What was kept; None when nothing was, and when it cannot be read any more."""
    row = spool.row("SELECT value FROM agent WHERE key = ?", (name,))
    try:
        return None if row is None else json.loads(row[0])
    except ValueError:
        return None
