"""What the stock has asked the server for: recognised when it comes, however late, and asked anew when it does not."""

import sqlite3
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from edge_agent.errors import JobFailed
from edge_agent.generation import pool, pool_surplus
from edge_agent.generation.recipe import Recipe
from edge_agent.storage import counters
from edge_agent.storage.holdings import held_bytes
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

_HEARD: Final = "backbone_version_heard"

Verdict = Literal["kept", "late", "stock_failed"]


@dataclass(frozen=True)
class _Asked:
    """An open request of the stock; `shelf` is its label as the tables name it."""

    request_id: str
    shelf: int
    samples: int
    recipe: Recipe
    dtype: str
    quota_bytes: int
    renews: int | None


def note_request(
    transaction: sqlite3.Connection,
    request: DenoiseV1,
    *,
    label: int | None,
    recipe: Recipe,
    quota_bytes: int,
    renews: int | None,
) -> None:
    """Remember what was asked for, so that the answer can be recognised.

    quota_bytes: of all samples at the cut on this device, stock and jobs together.  renews: the newest backbone version among
    the samples that the answer is to replace, None when it fills an empty place.
    """
    transaction.execute(
        "INSERT INTO pool_requests (request_id, label, samples, seed, origin, dtype, ttl_seconds, quota_bytes, renews)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            request.request_id,
            pool.shelf_of(label),
            request.n,
            request.seed,
            # The head's half is chosen when the samples are used, so samples that differ in nothing else are of one kind.
            recipe.of_the_server().to_json(),
            request.dtype,
            request.ttl_seconds,
            quota_bytes,
            renews,
        ),
    )


def take_answer(transaction: sqlite3.Connection, message: LatentsV1) -> Verdict:
    """Put one part of an answer into the stock; late when the stock does not wait for it (any more)."""
    asked = _open_request(transaction, message.request_id)
    if asked is None:
        return "late"
    problem = _problem(transaction, message, asked)
    if problem is not None:
        _fail(transaction, asked, problem)
        return "stock_failed"
    # Another worker may have sent some of these before: what came first stays, and what was used does not come back.
    transaction.executemany(
        "INSERT OR IGNORE INTO pool_latents (request_id, sample, backbone_version, x) VALUES (?, ?, ?, ?)",
        [
            (asked.request_id, message.first + index, message.backbone_version, x.tobytes())
            for index, x in enumerate(message.x)
        ],
    )
    pool_surplus.let_go_of_the_replaced(transaction, asked.shelf, asked.recipe.to_json())
    arrived = transaction.execute(
        "SELECT count(*) FROM pool_latents WHERE request_id = ?", (asked.request_id,)
    ).fetchone()[0]
    if arrived == asked.samples:
        _finish(transaction, asked, message.backbone_version)
    return "kept"


def take_failure(transaction: sqlite3.Connection, message: FailedV1) -> Verdict:
    """The server will not answer a request of the stock; late when the stock does not wait for it."""
    asked = _open_request(transaction, message.request_id)
    if asked is None:
        return "late"
    _fail(transaction, asked, f"{message.reason}: {message.detail}")
    return "stock_failed"


def note_error(transaction: sqlite3.Connection, label: int | None, error: str | None) -> None:
    """Say of a shelf why it cannot be filled, without counting that as a failure of the server; None when it can."""
    transaction.execute("UPDATE pool_shelves SET error = ? WHERE label = ?", (error, pool.shelf_of(label)))


def hear_version(transaction: sqlite3.Connection, version: int) -> None:
    """Note the backbone version that the server spoke of last; it may go back when an operator takes one back."""
    counters.put(transaction, _HEARD, version)


def version_heard(spool: Spool) -> int | None:
    """The backbone version that the server spoke of last; None before it did."""
    row = spool.row("SELECT value FROM counters WHERE name = ?", (_HEARD,))
    return None if row is None else int(row[0])


def remaining_seconds(spool: Spool, request_id: str) -> float | None:
    """How long an answer is of use yet, not below 0; None when the stock does not wait for it."""
    row = spool.row(
        "SELECT ttl_seconds - waited_seconds FROM pool_requests WHERE request_id = ? AND open", (request_id,)
    )
    return None if row is None else max(0.0, float(row[0]))


def expected_bytes(spool: Spool, sample_bytes: int) -> int:
    """Bytes that open requests may still bring, at `sample_bytes` a sample."""
    row = spool.rows(
        "SELECT coalesce(sum(samples - (SELECT count(*) FROM pool_latents l WHERE l.request_id = r.request_id)), 0)"
        " FROM pool_requests r WHERE open"
    )[0]
    return int(row[0]) * sample_bytes


def count_waiting(spool: Spool, seconds: float) -> int:
    """Let the open requests have waited `seconds` more; returns how many were given up, for they have waited too long.

    Only time with the link up is to be counted: a device that is off all day gets its answers at night.
    """
    if not spool.rows("SELECT EXISTS (SELECT 1 FROM pool_requests WHERE open)")[0][0]:
        return 0
    with spool.transaction() as transaction:
        transaction.execute(
            "UPDATE pool_requests SET waited_seconds = waited_seconds + ? WHERE open", (seconds,)
        )
        lost = transaction.execute(
            "SELECT request_id FROM pool_requests WHERE open AND waited_seconds >= ttl_seconds"
        ).fetchall()
        for (request_id,) in lost:
            asked = _open_request(transaction, request_id)
            if asked is not None:
                _fail(transaction, asked, "the server did not answer in time")
    return len(lost)


def _open_request(transaction: sqlite3.Connection, request_id: str) -> _Asked | None:
    row = transaction.execute(
        "SELECT request_id, label, samples, origin, dtype, quota_bytes, renews FROM pool_requests"
        " WHERE request_id = ? AND open",
        (request_id,),
    ).fetchone()
    if row is None:
        return None
    try:
        return _Asked(row[0], row[1], row[2], Recipe.from_json(row[3]), *row[4:])
    except JobFailed:
        # Nothing can be made of its answer; what is on its way is late.
        transaction.execute("UPDATE pool_requests SET open = 0 WHERE request_id = ?", (request_id,))
        return None


def _problem(transaction: sqlite3.Connection, message: LatentsV1, asked: _Asked) -> str | None:
    """Why an answer cannot go into the stock, in one line; None when it can."""
    recipe, count = asked.recipe, message.x.shape[0]
    if (message.schedule_id, message.t_stop, message.x.shape[1:]) != (
        recipe.schedule_id,
        recipe.t_cut,
        recipe.shape,
    ):
        return (
            f"the server answered with samples {message.x.shape[1:]} at t={message.t_stop} of schedule"
            f" {message.schedule_id}, asked were {recipe.shape} at t={recipe.t_cut} of {recipe.schedule_id}"
        )
    if message.x.dtype.name != asked.dtype or message.first + count > asked.samples:
        return (
            f"the server answered with {message.x.dtype.name} samples up to {message.first + count}, asked were"
            f" {asked.samples} of {asked.dtype}"
        )
    if held_bytes(transaction) + message.x.nbytes > asked.quota_bytes:
        return (
            f"there is no room: samples at the cut take {held_bytes(transaction)} bytes of {asked.quota_bytes};"
            " raise inbox_max_bytes, or keep fewer in stock"
        )
    return None


def _finish(transaction: sqlite3.Connection, asked: _Asked, version: int) -> None:
    """Everything has come."""
    if asked.renews is not None and version <= asked.renews:
        # Else a server that speaks of a new version and answers with the old one would be asked again for ever.
        _fail(
            transaction, asked, f"samples of version {asked.renews} were to be renewed, and came as {version}"
        )
        return
    transaction.execute("UPDATE pool_requests SET open = 0 WHERE request_id = ?", (asked.request_id,))
    transaction.execute(
        "UPDATE pool_shelves SET failures = 0, error = NULL WHERE label = ? AND failures > 0", (asked.shelf,)
    )
    pool.sweep(transaction)
    log.info("stock_filled", request_id=asked.request_id, samples=asked.samples, backbone_version=version)


def _fail(transaction: sqlite3.Connection, asked: _Asked, error: str) -> None:
    """Wait for this request no longer; what it brought stays."""
    transaction.execute("UPDATE pool_requests SET open = 0 WHERE request_id = ?", (asked.request_id,))
    transaction.execute("DELETE FROM outbox WHERE message_id = ?", (asked.request_id,))
    transaction.execute(
        "UPDATE pool_shelves SET failures = failures + 1, error = ? WHERE label = ?", (error, asked.shelf)
    )
    pool.sweep(transaction)
    log.warning("stock_not_filled", request_id=asked.request_id, error=error)
