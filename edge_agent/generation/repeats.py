"""Requests that come twice because the first answer was lost: a key in the row of the job says which they were.

It outlives the agent, and is forgotten with the job.
"""

import hashlib
import sqlite3
from dataclasses import dataclass
from typing import Self

from edge_agent.errors import KeyReused
from edge_agent.storage.spool import Spool

_QUERY = "SELECT job_id, request_digest FROM jobs WHERE idempotency_key = ?"


@dataclass(frozen=True)
class RequestKey:
    """What makes two requests one: the key that the caller chose, and the SHA-256 of what was asked, in hexadecimal."""

    key: str
    digest: str

    @classmethod
    def of(cls, key: str, body: bytes) -> Self:
        """The key of a request with this body."""
        return cls(key, hashlib.sha256(body).hexdigest())


def job_of(spool: Spool, key: RequestKey) -> str | None:
    """The job that the request made when it came before. Raises KeyReused when the key came with another request."""
    return _judged(spool.row(_QUERY, (key.key,)), key)


def job_within(transaction: sqlite3.Connection, key: RequestKey) -> str | None:
    """As `job_of`, for whoever is about to write the job down."""
    return _judged(transaction.execute(_QUERY, (key.key,)).fetchone(), key)


def _judged(row: sqlite3.Row | None, key: RequestKey) -> str | None:
    if row is None:
        return None
    if row["request_digest"] != key.digest:
        raise KeyReused("this Idempotency-Key came with another request before: choose a new one")
    job_id: str = row["job_id"]
    return job_id
