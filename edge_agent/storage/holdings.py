"""How much of what came for this device waits to be used: the bytes that the quota of the inbox is about.

Whoever is about to take in more that can wait, a stock or a head, asks here first. Answers to requests for images are taken in
any case: there are no more of them than were asked for.
"""

import sqlite3

from edge_agent.storage.spool import Spool

HELD = (("latents", "x"), ("pool_latents", "x"), ("pool_taken", "x"), ("head_chunks", "content"))
"""Table and column of everything that the server or the owner sends and that is kept until it is used."""


def held_bytes(source: Spool | sqlite3.Connection, *, besides: str | None = None) -> int:
    """Bytes in all those columns together, but for those of the table `besides`."""
    ask = source.rows if isinstance(source, Spool) else lambda sql: source.execute(sql).fetchall()
    return sum(
        int(ask(f"SELECT coalesce(sum(length({column})), 0) FROM {table}")[0][0])  # noqa: S608 - constants
        for table, column in HELD
        if table != besides
    )
