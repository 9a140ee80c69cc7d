"""Messages that the device has accepted and the broker has not yet confirmed.

What leaves the device leaves through here, and there are three ways in: samples as a batch of releases, which
`edge_agent.release.batch` alone can make; a request for images; and telemetry. None of them takes bytes.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from broker import codec
from broker.contract.denoise import DenoiseV1
from broker.contract.message import Message
from broker.contract.telemetry import TelemetryV1
from broker.contract.types import MESSAGE_TYPES
from broker.errors import Refused
from diffusion.errors import ReleaseRefused
from edge_agent.errors import OutboxFull
from edge_agent.release import batch as batches
from edge_agent.release.batch import ReleasedBatch
from edge_agent.storage.spool import Spool

Kind = Literal["samples", "denoise", "prefetch", "telemetry"]
PRIORITY: dict[Kind, int] = {"denoise": 0, "prefetch": 1, "samples": 2, "telemetry": 3}
INTERACTIVE = PRIORITY["denoise"]
LEAST_URGENT = 9
KEPT_FOR_REQUESTS_BYTES = 256 * 2**10
"""Of the quota at least so much is kept for interactive requests, and 5 % of a large one."""
_MORE_ROOM = (
    "connect the device to let it drain, or raise outbox_max_bytes in its file (--outbox-max-bytes of `edge run` and"
    " `edge contribute`)"
)
_ANY_BYTES = 2**62


@dataclass(frozen=True)
class Entry:
    """One message in the outbox; `sequence` is its place in the order of acceptance."""

    sequence: int
    message_id: str
    kind: str
    type: str
    job_id: str | None
    body: bytes


@dataclass(frozen=True)
class Load:
    """How full the outbox is. `oldest_seconds` is the age of its oldest message by the wall clock, 0 when empty."""

    messages: int
    size_bytes: int
    oldest_seconds: float


def bulk_bytes(max_bytes: int) -> int:
    """Of a quota of so many bytes, what may be filled by all but interactive requests, for which somebody waits."""
    return max_bytes - _kept_bytes(max_bytes)


def _kept_bytes(max_bytes: int) -> int:
    return max(KEPT_FOR_REQUESTS_BYTES, max_bytes // 20)


def put_samples(transaction: sqlite3.Connection, batch: ReleasedBatch, max_bytes: int) -> None:
    """Accept a message of releases, as part of a transaction.

    Raises ReleaseRefused for anything else, whatever it looks like; OutboxFull when the quota of `max_bytes` would be passed.
    The transaction is then to be given up.
    """
    batches.check_batch(batch)
    _put(
        transaction,
        message_id=batch.message_id,
        kind="samples",
        type_name=batches.TYPE_NAME,
        body=batch.body,
        max_bytes=max_bytes,
        kept_bytes=_kept_bytes(max_bytes),
    )


def put_request(
    transaction: sqlite3.Connection, request: DenoiseV1, job_id: str | None, max_bytes: int
) -> None:
    """Accept a request for images under its own id, interactive or to fill the stock, as its priority says.

    Raises ReleaseRefused for another message; OutboxFull when the quota would be passed, and the transaction is to be given up.
    """
    body = _written(request, DenoiseV1.type_name)
    _put(
        transaction,
        message_id=request.request_id,
        kind="denoise" if request.priority == "interactive" else "prefetch",
        type_name=DenoiseV1.type_name,
        body=body,
        max_bytes=max_bytes,
        kept_bytes=0 if request.priority == "interactive" else _kept_bytes(max_bytes),
        job_id=job_id,
    )


def put_telemetry(transaction: sqlite3.Connection, message: TelemetryV1, max_bytes: int) -> None:
    """Accept what the device says of itself, in place of an older word that was not sent yet.

    Raises ReleaseRefused for a message of another type than `telemetry.v1`; OutboxFull when the quota would be passed, and the
    transaction is to be given up.
    """
    body = _written(message, TelemetryV1.type_name)
    transaction.execute("DELETE FROM outbox WHERE kind = 'telemetry'")
    _put(
        transaction,
        message_id=codec.digest(body),
        kind="telemetry",
        type_name=TelemetryV1.type_name,
        body=body,
        max_bytes=max_bytes,
        kept_bytes=_kept_bytes(max_bytes),
    )


def _written(message: Message, type_name: str) -> bytes:
    """The body of a message that is of this type of the contract, and valid; a subclass could write another body."""
    if type(message) is not MESSAGE_TYPES.get(type_name):
        raise ReleaseRefused(
            f"a {type(message).__name__} cannot be put into the outbox as {type_name}: samples leave the device as a"
            " ReleasedBatch alone"
        )
    body = codec.encode(message)
    try:
        codec.decode(type_name, body)  # one that was made without being validated holds anything
    except Refused as error:
        raise ReleaseRefused(f"a {type_name} that breaks the contract was not sent: {error}") from error
    return body


def _put(
    transaction: sqlite3.Connection,
    *,
    message_id: str,
    kind: Kind,
    type_name: str,
    body: bytes,
    max_bytes: int,
    kept_bytes: int = 0,
    job_id: str | None = None,
) -> None:
    """Accept a message that one of the three ways in has made; `kept_bytes` of the quota are not for it."""
    waiting_bytes = int(transaction.execute("SELECT coalesce(sum(size_bytes), 0) FROM outbox").fetchone()[0])
    if waiting_bytes + len(body) > max_bytes - kept_bytes:
        kept = f" (outbox_max_bytes {max_bytes:,}, less {kept_bytes:,} kept for requests of images)"
        raise OutboxFull(
            f"the outbox is full: {waiting_bytes:,} bytes wait for the broker and {len(body):,} more would pass the quota of"
            f" {max_bytes - kept_bytes:,}{kept if kept_bytes else ''}; {_MORE_ROOM}"
        )
    transaction.execute(
        "INSERT INTO outbox (message_id, priority, kind, type, job_id, size_bytes, created_at, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (message_id, PRIORITY[kind], kind, type_name, job_id, len(body), time.time(), body),
    )


def next_entries(
    spool: Spool,
    *,
    besides: Sequence[int],
    limit: int,
    limit_bytes: int,
    first_bytes: int | None = None,
    urgent: bool = False,
) -> list[Entry]:
    """The messages to send next, interactive ones first, else oldest first; `besides` are in flight.

    Up to `limit` of them, and no more than `limit_bytes` together, unless the first alone is larger: that may have `first_bytes`,
    None for any size, and an interactive one any size. `urgent`: interactive ones alone.
    """
    rows = spool.rows(
        "WITH first AS (SELECT sequence, priority, size_bytes FROM outbox"
        " WHERE sequence NOT IN (SELECT value FROM json_each(?)) AND priority <= ?"
        " ORDER BY priority, sequence LIMIT ?),"
        " placed AS (SELECT sequence, priority = ? OR size_bytes <= ? AS fits,"
        " sum(size_bytes) OVER place AS total_bytes, row_number() OVER place AS place"
        " FROM first WINDOW place AS (ORDER BY priority, sequence))"
        " SELECT sequence, message_id, kind, type, job_id, body FROM placed JOIN outbox USING (sequence)"
        " WHERE total_bytes <= ? OR (place = 1 AND fits) ORDER BY place",
        (
            json.dumps(list(besides)),
            INTERACTIVE if urgent else LEAST_URGENT,
            limit,
            INTERACTIVE,
            _ANY_BYTES if first_bytes is None else first_bytes,
            limit_bytes,
        ),
    )
    return [Entry(*row) for row in rows]


def confirmed(spool: Spool, sequences: Sequence[int]) -> None:
    """Forget messages that the broker has confirmed: from now on they are its responsibility."""
    with spool.transaction() as transaction:
        transaction.executemany(
            "DELETE FROM outbox WHERE sequence = ?", [(sequence,) for sequence in sequences]
        )


def failed(spool: Spool, failures: Sequence[tuple[int, str]]) -> None:
    """Note why messages could not be published; they stay where they are."""
    with spool.transaction() as transaction:
        transaction.executemany(
            "UPDATE outbox SET attempts = attempts + 1, last_error = ? WHERE sequence = ?",
            [(reason, sequence) for sequence, reason in failures],
        )


def load(spool: Spool) -> Load:
    """Messages, bytes and age of what waits."""
    return _load(spool, INTERACTIVE)


def held_back(spool: Spool) -> Load:
    """Of what waits, all that is not interactive: what a metered link or a cap keeps back."""
    return _load(spool, INTERACTIVE + 1)


def check_room(spool: Spool, max_bytes: int) -> None:
    """Raise OutboxFull when the quota is used up, so that no new work is accepted."""
    waiting = load(spool)
    if waiting.size_bytes >= max_bytes:
        raise OutboxFull(
            f"the outbox is full: {waiting.messages:,} messages of {waiting.size_bytes:,} bytes wait for the broker and the quota"
            f" is {max_bytes:,}; {_MORE_ROOM}"
        )


def _load(spool: Spool, from_priority: int) -> Load:
    row = spool.rows(
        "SELECT count(*), coalesce(sum(size_bytes), 0), min(created_at) FROM outbox WHERE priority >= ?",
        (from_priority,),
    )[0]
    oldest_seconds = 0.0 if row[2] is None else max(0.0, time.time() - row[2])
    return Load(messages=row[0], size_bytes=row[1], oldest_seconds=oldest_seconds)
