"""Requests for images as the device has accepted them, each of which ends exactly once.

accepted → requested → partial → finishing → completed, and from any of these to failed (with a reason) or expired. A job's age is
counted by `edge_agent.clock`, so that no setting of the wall clock makes a job expire early.
"""

import json
import math
import sqlite3
import time
import uuid
from dataclasses import dataclass
from typing import Literal

import structlog

from edge_agent.clock import Moment, elapsed_seconds
from edge_agent.errors import JobRefused
from edge_agent.generation import repeats
from edge_agent.generation.repeats import RequestKey
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

State = Literal["accepted", "requested", "partial", "finishing", "completed", "failed", "expired"]
Source = Literal["server", "pool", "local"]
UNFINISHED: tuple[State, ...] = ("accepted", "requested", "partial", "finishing")
ENDED: tuple[State, ...] = ("completed", "failed", "expired")
MAX_COUNT = 1024
MAX_SEED = 2**63 - 1
MAX_HEAD_STEPS = 10_000
MAX_WAITING_JOBS = 10_000
CANCELLED = "cancelled"
"""The reason of a job that failed because it was not wanted any more."""


@dataclass(frozen=True)
class Job:
    """One row: `recipe` is JSON once the work is planned, `done` how many images are finished.

    `created_at` is the wall clock's opinion, for people; `carried_seconds` was the job's age at `anchor`. `seeded` says whether
    somebody chose the seed; `head_steps` how many evaluations of the head were asked for, or `budget_ms` how many milliseconds
    of the head for an image, None for the device's own choice; `source` where the samples at the cut come from, None until
    that is decided.
    """

    job_id: str
    state: State
    count: int
    label: int | None
    seed: int
    recipe: str | None
    done: int
    reason: str | None
    detail: str | None
    ttl_seconds: float | None
    carried_seconds: float
    anchor: Moment
    created_at: float
    work_seconds: float
    seeded: bool
    head_steps: int | None
    budget_ms: float | None
    source: Source | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    def age_seconds(self, moment: Moment) -> float:
        """How long ago it was accepted."""
        return elapsed_seconds(self.carried_seconds, self.anchor, moment)

    def remaining_seconds(self, moment: Moment) -> float | None:
        """How long it may still take, not below 0; None when it may take for ever."""
        return None if self.ttl_seconds is None else max(0.0, self.ttl_seconds - self.age_seconds(moment))


def accept(
    spool: Spool,
    *,
    count: int,
    label: int | None,
    seed: int,
    ttl_seconds: float | None,
    moment: Moment,
    seeded: bool = True,
    head_steps: int | None = None,
    budget_ms: float | None = None,
    key: RequestKey | None = None,
) -> str:
    """Accept a request for images; once this returns the job's id, the job will end.

    Args:
        spool: where it is kept.
        count: images wanted, 1 to 1024.
        label: the class wanted, or None.
        seed: 0 to 2⁶³-1; the same seed, label and models give the same images.
        ttl_seconds: how long the images are of use, above 0, or None for as long as it takes.
        moment: now.
        seeded: whether somebody chose the seed; images without a chosen one may come from the stock of latents.
        head_steps: evaluations of the head wanted, 1 to 10,000, or None for the device's own choice.
        budget_ms: milliseconds that the head may take for an image, above 0; chooses head_steps when those are not given.
        key: of the request, which makes one job however often it comes; None makes one each time.

    Raises:
        KeyReused: the key came with another request before.
        JobRefused: a value makes no sense, or too many jobs wait already.
    """
    if not 1 <= count <= MAX_COUNT:
        raise JobRefused(f"{count} images cannot be asked for at once: choose 1 to {MAX_COUNT}")
    if label is not None and not 0 <= label < 2**31:
        raise JobRefused(f"the label {label} is not possible: labels count from 0")
    if not 0 <= seed <= MAX_SEED:
        raise JobRefused(f"the seed {seed} is not in 0..{MAX_SEED}")
    if ttl_seconds is not None and not 0 < ttl_seconds <= 30 * 86_400:
        raise JobRefused(
            f"{ttl_seconds} s is no time to live: choose more than 0 s and at most 30 days, or none"
        )
    if head_steps is not None and not 1 <= head_steps <= MAX_HEAD_STEPS:
        raise JobRefused(f"{head_steps} steps of the head are not possible: choose 1 to {MAX_HEAD_STEPS}")
    if budget_ms is not None and not 0 < budget_ms < math.inf:
        raise JobRefused(f"{budget_ms} ms is no budget: choose more than 0")
    job_id = uuid.uuid4().hex
    with spool.transaction() as transaction:
        known = None if key is None else repeats.job_within(transaction, key)
        if known is not None:
            return known
        waiting = transaction.execute(
            "SELECT count(*) FROM jobs WHERE state IN ('accepted', 'requested', 'partial', 'finishing')"
        ).fetchone()[0]
        if waiting >= MAX_WAITING_JOBS:
            raise JobRefused(
                f"{waiting} jobs wait already and no more are taken: is the agent running and connected?"
            )
        transaction.execute(
            "INSERT INTO jobs (job_id, state, count, label, seed, seeded, head_steps, budget_ms, ttl_seconds,"
            " anchor_boot, anchor_seconds, created_at, idempotency_key, request_digest)"
            " VALUES (?, 'accepted', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                job_id,
                count,
                label,
                seed,
                seeded,
                head_steps,
                budget_ms,
                ttl_seconds,
                moment.boot,
                moment.seconds,
                time.time(),
                None if key is None else key.key,
                None if key is None else key.digest,
            ),
        )
    log.info("job_accepted", job_id=job_id, count=count)
    return job_id


def find(spool: Spool, job_id: str) -> Job | None:
    """The job of that id."""
    row = spool.row("SELECT * FROM jobs WHERE job_id = ?", (job_id,))
    return None if row is None else _job(row)


def unfinished(spool: Spool, *states: State) -> list[Job]:
    """Jobs that have not ended, oldest first; only those in `states` when some are given."""
    wanted = states or UNFINISHED
    rows = spool.rows(
        "SELECT * FROM jobs WHERE state IN (SELECT value FROM json_each(?)) ORDER BY sequence",
        (json.dumps(wanted),),
    )
    return [_job(row) for row in rows]


def recent(spool: Spool, limit: int, before: str | None = None) -> list[Job]:
    """The newest jobs, newest first; only those accepted before the job `before` when it is given, none when it is unknown."""
    rows = spool.rows(
        "SELECT * FROM jobs WHERE ?1 IS NULL OR sequence < (SELECT sequence FROM jobs WHERE job_id = ?1)"
        " ORDER BY sequence DESC LIMIT ?2",
        (before, limit),
    )
    return [_job(row) for row in rows]


def counts(spool: Spool) -> dict[str, int]:
    """Number of jobs by state, of the states that occur."""
    return {row[0]: row[1] for row in spool.rows("SELECT state, count(*) FROM jobs GROUP BY state")}


def move(transaction: sqlite3.Connection, job_id: str, state: State) -> bool:
    """Take a job to its next state; False when it has ended in the meantime, for it may be cancelled at any moment."""
    moved = transaction.execute(
        "UPDATE jobs SET state = ? WHERE job_id = ? AND state NOT IN ('completed', 'failed', 'expired')",
        (state, job_id),
    )
    return moved.rowcount == 1


def is_open(transaction: sqlite3.Connection, job_id: str) -> bool:
    """Whether a job has not ended."""
    row = transaction.execute("SELECT state FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    return row is not None and row[0] in UNFINISHED


def end(
    transaction: sqlite3.Connection,
    job_id: str,
    state: Literal["completed", "failed", "expired"],
    *,
    reason: str | None = None,
    detail: str | None = None,
) -> bool:
    """End a job and let go of everything that was kept for it; False when it had ended before."""
    ended = transaction.execute(
        "UPDATE jobs SET state = ?, reason = ?, detail = ? WHERE job_id = ?"
        " AND state NOT IN ('completed', 'failed', 'expired')",
        (state, reason, detail, job_id),
    )
    if ended.rowcount == 0:
        return False
    transaction.execute("DELETE FROM outbox WHERE job_id = ?", (job_id,))
    # The parts go with their requests; a result that comes later finds no request, and is late.
    transaction.execute("DELETE FROM requests WHERE job_id = ?", (job_id,))
    transaction.execute("DELETE FROM pool_taken WHERE job_id = ?", (job_id,))
    return True


def cancel(spool: Spool, job_id: str) -> bool:
    """End a job because nobody wants its images any more; False when it had ended before."""
    with spool.transaction() as transaction:
        cancelled = end(
            transaction, job_id, "failed", reason=CANCELLED, detail="it was cancelled on this device"
        )
    if cancelled:
        log.info("job_cancelled", job_id=job_id)
    return cancelled


def expire(spool: Spool, moment: Moment) -> int:
    """End every job that has run out of time at `moment`; returns how many."""
    # Asked for at every turn of the agent, and most jobs may take for ever.
    mortal = spool.rows(
        "SELECT * FROM jobs WHERE state IN (SELECT value FROM json_each(?)) AND ttl_seconds IS NOT NULL ORDER BY sequence",
        (json.dumps(UNFINISHED),),
    )
    overdue = [job for job in map(_job, mortal) if job.remaining_seconds(moment) == 0.0]
    for job in overdue:
        detail = f"it was not finished within {job.ttl_seconds:g} s; at the end it was {job.state}"
        with spool.transaction() as transaction:
            end(transaction, job.job_id, "expired", reason="expired", detail=detail)
        log.warning("job_expired", job_id=job.job_id, state=job.state, ttl_seconds=job.ttl_seconds)
    return len(overdue)


def note_progress(spool: Spool, job_id: str, done: int, work_seconds: float) -> None:
    """Write down how many images of a job are finished and how long the head has worked for it."""
    with spool.transaction() as transaction:
        transaction.execute(
            "UPDATE jobs SET done = ?, work_seconds = ? WHERE job_id = ?", (done, work_seconds, job_id)
        )


def carry_ages(spool: Spool, moment: Moment) -> None:
    """Write the ages of unfinished jobs down, so that a reboot cannot make them much younger."""
    ages = [(job.age_seconds(moment), moment.boot, moment.seconds, job.job_id) for job in unfinished(spool)]
    if not ages:
        return
    with spool.transaction() as transaction:
        transaction.executemany(
            "UPDATE jobs SET carried_seconds = ?, anchor_boot = ?, anchor_seconds = ? WHERE job_id = ?", ages
        )


def _job(row: sqlite3.Row) -> Job:
    return Job(
        job_id=row["job_id"],
        state=row["state"],
        count=row["count"],
        label=row["label"],
        seed=row["seed"],
        recipe=row["recipe"],
        done=row["done"],
        reason=row["reason"],
        detail=row["detail"],
        ttl_seconds=row["ttl_seconds"],
        carried_seconds=row["carried_seconds"],
        anchor=Moment(row["anchor_boot"], row["anchor_seconds"]),
        created_at=row["created_at"],
        work_seconds=row["work_seconds"],
        seeded=bool(row["seeded"]),
        head_steps=row["head_steps"],
        budget_ms=row["budget_ms"],
        source=row["source"],
    )
