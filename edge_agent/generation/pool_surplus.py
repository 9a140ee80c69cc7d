"""What of the stock may go: samples that better ones have replaced, that nobody wants any more, that the head cannot finish."""

import json
import sqlite3
from collections.abc import Sequence

from edge_agent.generation import pool
from edge_agent.generation.recipe import Recipe
from edge_agent.heads.facts import HeadFacts
from edge_agent.storage.spool import Spool


def foreign(spool: Spool, label: int | None, recipe: Recipe) -> int:
    """How many samples on a shelf are of another origin than `recipe` would have now: no job takes them beside new ones."""
    row = spool.rows(
        "SELECT count(*) FROM pool_latents l JOIN pool_requests r USING (request_id)"
        " WHERE r.label = ? AND l.x IS NOT NULL AND r.origin <> ?",
        (pool.shelf_of(label), recipe.of_the_server().to_json()),
    )[0]
    return int(row[0])


def unfit(spool: Spool, head: HeadFacts) -> list[str]:
    """The origins of samples, in stock or on their way, that this head cannot finish."""
    origins = [row[0] for row in spool.rows("SELECT DISTINCT origin FROM pool_requests")]
    return [text for text in origins if not pool.is_at(head.at_cut, text)]


def call_off(spool: Spool, recipe: Recipe) -> int:
    """Wait no longer for samples of another origin than `recipe` has; what is in stock stays. Returns how many requests."""
    chosen = "SELECT request_id FROM pool_requests WHERE open AND origin <> ?"
    parameters = (recipe.of_the_server().to_json(),)
    if not spool.rows(chosen, parameters):
        return 0
    with spool.transaction() as transaction:
        transaction.execute(f"DELETE FROM outbox WHERE message_id IN ({chosen})", parameters)  # noqa: S608 - a constant
        closed = transaction.execute(
            "UPDATE pool_requests SET open = 0 WHERE open AND origin <> ?", parameters
        ).rowcount
        pool.sweep(transaction)
    return int(closed)


def drop(spool: Spool, origins: list[str]) -> int:
    """Let go of all samples of these origins, whether in stock or on their way; returns how many were in stock."""
    chosen = "SELECT request_id FROM pool_requests WHERE origin IN (SELECT value FROM json_each(?))"
    parameters = (json.dumps(origins),)
    with spool.transaction() as transaction:
        images = transaction.execute(
            f"SELECT count(*) FROM pool_latents WHERE x IS NOT NULL AND request_id IN ({chosen})",  # noqa: S608 - a constant
            parameters,
        ).fetchone()[0]
        transaction.execute(f"DELETE FROM outbox WHERE message_id IN ({chosen})", parameters)  # noqa: S608 - a constant
        transaction.execute(f"DELETE FROM pool_requests WHERE request_id IN ({chosen})", parameters)  # noqa: S608 - a constant
    return int(images)


def make_room(transaction: sqlite3.Connection, size_bytes: int, useless: list[str]) -> int:
    """Let go of so many bytes of samples, or of as many as may go; returns how many samples went.

    useless: origins that no head here can finish any more. These go first, then what is on shelves that the settings name no
    longer, or is more than they want of a shelf; the longest kept first. What is wanted and of use stays.
    """
    rows = transaction.execute(
        "WITH held AS (SELECT l.sequence, length(l.x) AS bytes, coalesce(s.wanted, 0) AS wanted,"
        " r.origin IN (SELECT value FROM json_each(?)) AS useless, row_number() OVER"
        " (PARTITION BY r.label ORDER BY l.backbone_version DESC, l.sequence DESC) AS place"
        " FROM pool_latents l JOIN pool_requests r USING (request_id) LEFT JOIN pool_shelves s USING (label)"
        " WHERE l.x IS NOT NULL)"
        " SELECT sequence, bytes FROM held WHERE useless OR place > wanted ORDER BY useless DESC, wanted > 0, sequence",
        (json.dumps(useless),),
    ).fetchall()
    return _empty_the_first(transaction, rows, size_bytes)


def make_room_among_the_foreign(
    transaction: sqlite3.Connection, size_bytes: int, label: int | None, recipe: Recipe
) -> int:
    """Let go of so many bytes of a shelf's samples of another origin than `recipe` has; returns how many samples went."""
    rows = transaction.execute(
        "SELECT l.sequence, length(l.x) FROM pool_latents l JOIN pool_requests r USING (request_id)"
        " WHERE r.label = ? AND r.origin <> ? AND l.x IS NOT NULL ORDER BY l.sequence",
        (pool.shelf_of(label), recipe.of_the_server().to_json()),
    ).fetchall()
    return _empty_the_first(transaction, rows, size_bytes)


def let_go_of_the_replaced(transaction: sqlite3.Connection, shelf: int, origin: str) -> None:
    """Bring a shelf to what is wanted of it, now that samples of `origin` are here: other origins go first, then the oldest."""
    rows = transaction.execute(
        "SELECT l.sequence FROM pool_latents l JOIN pool_requests r USING (request_id)"
        " JOIN pool_shelves s USING (label)"
        # Nothing is wanted of a shelf that the settings name no longer; what is on it is used up all the same.
        " WHERE r.label = ? AND s.wanted > 0 AND l.x IS NOT NULL"
        " ORDER BY r.origin = ? DESC, l.backbone_version DESC, l.sequence DESC"
        " LIMIT -1 OFFSET (SELECT wanted FROM pool_shelves WHERE label = ?)",
        (shelf, origin, shelf),
    ).fetchall()
    if rows:
        pool.empty(transaction, [row[0] for row in rows])


def _empty_the_first(transaction: sqlite3.Connection, rows: Sequence[Sequence[int]], size_bytes: int) -> int:
    """Let go of the first of these samples, (sequence, bytes) each, until so many bytes are free; returns how many went."""
    sequences: list[int] = []
    for sequence, sample_bytes in rows:
        if size_bytes <= 0:
            break
        sequences.append(sequence)
        size_bytes -= sample_bytes
    if sequences:
        pool.empty(transaction, sequences)
    return len(sequences)
