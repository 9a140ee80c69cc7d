"""The parts of the server's answers, kept until a job's last one is there."""

import sqlite3
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from broker import codec
from broker.contract.denoise import DenoiseV1, LatentsV1
from edge_agent.errors import JobFailed
from edge_agent.generation import jobs
from edge_agent.generation.recipe import Recipe, Slice
from edge_agent.storage.spool import Spool


@dataclass(frozen=True)
class Asked:
    """A request that is waiting for its answer: which slice of which job, made how."""

    job_id: str
    part: Slice
    recipe: Recipe


Verdict = Literal["whole", "partial"]


def note_request(transaction: sqlite3.Connection, job_id: str, part: Slice, request: DenoiseV1) -> None:
    """Remember what was asked, so that the answer can be recognised, and the same be asked again."""
    transaction.execute(
        "INSERT INTO requests (request_id, job_id, first, samples, seed, body) VALUES (?, ?, ?, ?, ?, ?)",
        (request.request_id, job_id, part.first, part.samples, part.seed, codec.encode(request)),
    )


def asked(transaction: sqlite3.Connection, request_id: str) -> Asked | None:
    """What the request was about; None when it is unknown or its job has ended."""
    row = transaction.execute(
        "SELECT r.job_id, r.first, r.samples, r.seed, j.recipe FROM requests r JOIN jobs j USING (job_id)"
        " WHERE r.request_id = ?",
        (request_id,),
    ).fetchone()
    if row is None:
        return None
    try:
        return Asked(row[0], Slice(row[1], row[2], row[3]), Recipe.from_json(row[4]))
    except JobFailed as error:
        jobs.end(transaction, row[0], "failed", reason=error.reason, detail=error.detail)
        return None


def job_of(transaction: sqlite3.Connection, message: LatentsV1) -> str | None:
    """The job that an answer is for; None when it is for the stock, or its job has ended."""
    row = transaction.execute(
        "SELECT job_id FROM requests WHERE request_id = ?", (message.request_id,)
    ).fetchone()
    return None if row is None else str(row[0])


def mismatch(message: LatentsV1, question: Asked) -> str | None:
    """Why an answer does not fit its question, in one line; None when it does."""
    recipe, part = question.recipe, question.part
    if message.schedule_id != recipe.schedule_id:
        return f"the server answered on schedule {message.schedule_id}, asked was {recipe.schedule_id}"
    if message.t_stop != recipe.t_cut:
        return f"the server stopped at t={message.t_stop}, asked was t={recipe.t_cut}"
    if message.x.shape[1:] != recipe.shape:
        return f"the server sent samples of shape {message.x.shape[1:]}, asked was {recipe.shape}"
    if message.first + message.x.shape[0] > part.samples:
        return (
            f"the server sent samples up to {message.first + message.x.shape[0]}, asked were {part.samples}"
        )
    return None


def store(transaction: sqlite3.Connection, message: LatentsV1, question: Asked) -> Verdict:
    """Keep one part; says whether the job it belongs to has everything now."""
    transaction.execute(
        "INSERT INTO latents (request_id, first, samples, parts, dtype, backbone_version, x)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        # Another worker may have cut the answer otherwise: of two parts that begin alike the longer holds the other.
        " ON CONFLICT (request_id, first) DO UPDATE SET samples = excluded.samples, dtype = excluded.dtype,"
        " backbone_version = excluded.backbone_version, x = excluded.x WHERE excluded.samples > latents.samples",
        (
            message.request_id,
            message.first,
            message.x.shape[0],
            message.parts,
            message.x.dtype.name,
            message.backbone_version,
            message.x.tobytes(),
        ),
    )
    return "whole" if _is_whole(transaction, question.job_id) else "partial"


def gather(spool: Spool, job_id: str, count: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """All samples of a job at the cut, (count, C, H, W) float32, in the order of the job."""
    x = np.empty((count, *shape), np.float32)
    for row in spool.rows(
        "SELECT r.first + l.first, l.samples, l.dtype, l.x FROM latents l JOIN requests r USING (request_id)"
        " WHERE r.job_id = ? ORDER BY r.first, l.first",
        (job_id,),
    ):
        first, samples, dtype, content = row
        x[first : first + samples] = np.frombuffer(content, dtype).reshape(samples, *shape)
    return x


def is_answered(transaction: sqlite3.Connection, request_id: str, samples: int) -> bool:
    """Every sample of a request is there. Parts may overlap: two workers may have answered it with different cuts of it."""
    covered = np.zeros(samples, bool)
    for first, length in transaction.execute(
        "SELECT first, samples FROM latents WHERE request_id = ?", (request_id,)
    ):
        covered[first : first + length] = True
    return bool(covered.all())


def versions(spool: Spool, job_id: str, count: int) -> NDArray[np.int64]:
    """The backbone version that made each sample of a job, (count,) int64, in the order of the job."""
    found = np.zeros(count, np.int64)
    for first, samples, version in spool.rows(
        "SELECT r.first + l.first, l.samples, l.backbone_version FROM latents l JOIN requests r USING (request_id)"
        " WHERE r.job_id = ? ORDER BY r.first, l.first",
        (job_id,),
    ):
        found[first : first + samples] = version
    return found


def forget_requests(transaction: sqlite3.Connection, job_id: str) -> None:
    """Ask no longer on behalf of a job: what was not sent is not sent, and what comes is late."""
    transaction.execute("DELETE FROM outbox WHERE job_id = ?", (job_id,))
    # The parts go with their requests.
    transaction.execute("DELETE FROM requests WHERE job_id = ?", (job_id,))


def _is_whole(transaction: sqlite3.Connection, job_id: str) -> bool:
    """Every sample of a job is there."""
    requests = transaction.execute(
        "SELECT request_id, samples FROM requests WHERE job_id = ?", (job_id,)
    ).fetchall()
    return all(is_answered(transaction, request_id, samples) for request_id, samples in requests)
