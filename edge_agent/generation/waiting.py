"""Waiting for a job in another process than the agent's, by watching the spool."""

import time
from collections.abc import Callable

from edge_agent import clock
from edge_agent.errors import JobFailed, JobRefused
from edge_agent.generation import jobs, pool
from edge_agent.generation.jobs import Job
from edge_agent.heads import store
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, agent_is_running

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_WAITS_FOR_LINK = "the job waits for the link to the server"
_WAITS_FOR_HEAD = {
    "staged": "the job waits for the first head's check",
    "receiving": "the job waits for the first head, which is on its way",
}


def wait_for(
    spool: Spool, state: StateDirectory, job_id: str, on_look: Callable[[Job, bool], None] | None = None
) -> Job:
    """Wait until a job has ended, and return it completed.

    on_look: told the job, and whether an agent runs, whenever something may have changed and once a second besides.

    Without an agent the job's time runs all the same, and this ends it when it is over. Raises JobFailed when it failed or
    expired, or when its pictures were removed before they could be seen, JobRefused when there is no such job.
    """
    look_at = 0.0
    running = False
    job = None
    while True:
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + _LOOK_SECONDS
            running = agent_is_running(state)
            if not running:
                jobs.expire(spool, clock.now())
        before, job = job, jobs.find(spool, job_id)
        if job is None and before is not None:
            raise _removed(job_id)
        if job is None:
            raise JobRefused(f"there is no job {job_id} in {spool.path}")
        if on_look is not None:
            on_look(job, running)
        if job.ended:
            return _completed(job, state)
        _wait_for_change(spool, look_at)


def why_it_waits(spool: Spool, job: Job, *, connected: bool, has_head: bool) -> str | None:
    """Why a job waits for its first head or for the server, in words for the one who waits; None when it will go on in a moment.

    connected: whether the link to the broker stands.
    has_head: whether a head is in use.
    """
    coming = store.coming(spool) if job.state == "accepted" and not has_head else None
    if coming is not None:
        return _WAITS_FOR_HEAD[coming]
    if connected or job.state not in {"accepted", "requested", "partial"}:
        return None
    return _why_without_server(spool, job)


def _why_without_server(spool: Spool, job: Job) -> str | None:
    if not any(shelf.label == job.label for shelf in pool.stock(spool)):
        # A job that needs no server is gone on with as soon as the agent has seen it.
        seen = job.state != "accepted" or job.age_seconds(clock.now()) >= _LOOK_SECONDS
        return _WAITS_FOR_LINK if seen else None
    there = pool.available(spool, job.label)
    label = "without a label" if job.label is None else f"of label {job.label}"
    if job.seeded and there:
        return f"a chosen seed needs the server: leave out --seed to use the stock of {there} images {label}"
    if job.seeded:
        return _WAITS_FOR_LINK
    if there >= job.count:
        return None
    return f"{there} of {job.count} images {label} are in stock: {_WAITS_FOR_LINK}"


def _wait_for_change(spool: Spool, until: float) -> None:
    while time.monotonic() < until and not spool.changed_elsewhere():
        time.sleep(_POLL_SECONDS)


def _completed(job: Job, state: StateDirectory) -> Job:
    if job.state != "completed":
        raise JobFailed(job.reason or job.state, f"job {job.job_id} {job.state} ({job.reason}): {job.detail}")
    if not state.results(job.job_id).exists():
        raise _removed(job.job_id)
    return job


def _removed(job_id: str) -> JobFailed:
    return JobFailed(
        "removed",
        f"job {job_id} has ended and its pictures were removed for room: raise results_max_bytes, make room on the disk, or ask"
        " for fewer images at once",
    )
