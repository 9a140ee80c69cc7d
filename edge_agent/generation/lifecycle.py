"""Taking jobs through their states: from the stock, or by asking the server; `finishing` does the rest.

Every step is one transaction and can be repeated: whoever starts the agent after a crash finds each job before a step or after
it. The request of a job is written to the outbox, and its samples are taken from the stock, together with the state that says so.
"""

import sqlite3
import uuid

import structlog

from broker.contract.rounds import RoundV1
from edge_agent import clock
from edge_agent.errors import JobFailed
from edge_agent.generation import jobs, latents, pool
from edge_agent.generation.jobs import Job
from edge_agent.generation.recipe import Recipe, check_label, denoise_request, slices, write_recipe
from edge_agent.heads import store
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import contract, outbox
from edge_agent.settings import EdgeSettings
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

MAX_REQUESTS_TOLD = 32
"""Of the requests that filled the stock, so many are named in a log line of a job that was served from it."""


def check_room(spool: Spool, settings: EdgeSettings, *, count: int, label: int | None, seeded: bool) -> None:
    """Refuse a job that would need the server and has no room for its request; the stock serves others all the same.

    Raises OutboxFull.
    """
    if seeded or pool.available(spool, label) < count:
        outbox.check_room(spool, settings.outbox_max_bytes)


def start(
    spool: Spool,
    job: Job,
    settings: EdgeSettings,
    slot: HeadSlot,
    *,
    connected: bool = True,
    may_ask: bool = True,
    head_steps: int | None = None,
) -> bool:
    """Plan an accepted job, and take its samples from the stock or write its requests to the outbox.

    connected: whether the link stands.  may_ask: False leaves a job that needs the server alone: an older one waits for room.
    head_steps: evaluations of the head, None for what the job or else the settings say.

    Returns False when it has to wait, as for the server's contract, or for a first head that is on its way or not checked yet.
    Raises JobFailed when it can never be made as things are, OutboxFull when it has to wait for room.
    """
    round_ = contract.latest(spool)
    recipe = _recipe(spool, settings, slot, round_, head_steps or job.head_steps)
    if recipe is None:
        return False
    check_label(job.label, slot.facts, round_)
    ttl_seconds = job.remaining_seconds(clock.now())
    if ttl_seconds == 0.0:
        return False  # about to be expired
    if (settings.pool_use == "always" or not connected) and _take_from_stock(spool, job, recipe):
        return True
    if recipe.asks_the_server and not may_ask:
        return False
    with spool.transaction() as transaction:
        if not jobs.move(transaction, job.job_id, "requested" if recipe.asks_the_server else "finishing"):
            return False  # cancelled a moment ago
        _plan(transaction, job, recipe, "server" if recipe.asks_the_server else "local")
        for part in slices(job.count, job.seed) if recipe.asks_the_server else ():
            request = denoise_request(
                recipe,
                part,
                request_id=uuid.uuid4().hex,
                label=job.label,
                dtype=settings.latents_dtype,
                ttl_seconds=ttl_seconds,
            )
            latents.note_request(transaction, job.job_id, part, request)
            outbox.put_request(transaction, request, job.job_id, settings.outbox_max_bytes)
    log.info(
        "job_started",
        job_id=job.job_id,
        count=job.count,
        asks_the_server=recipe.asks_the_server,
        waited_seconds=_waited_seconds(job),
    )
    return True


def serve_from_stock(spool: Spool, job: Job) -> bool:
    """Let a job that waits for the server have samples from the stock instead; False when it cannot.

    For jobs that have been asked for while the link is down. What the server has sent of it, and an answer that comes after
    all, is of no use then: one job's samples are all of one kind.
    """
    try:
        return job.recipe is not None and _take_from_stock(spool, job, Recipe.from_json(job.recipe))
    except JobFailed as error:
        fail(spool, job.job_id, error)
        return False


def serve_waiting_from_stock(spool: Spool) -> int:
    """Let every job that waits for the rest of the server's answer have samples from the stock; returns how many got them."""
    return sum(serve_from_stock(spool, job) for job in jobs.unfinished(spool, "requested", "partial"))


def fail(spool: Spool, job_id: str, error: JobFailed) -> None:
    """End a job with its reason."""
    with spool.transaction() as transaction:
        jobs.end(transaction, job_id, "failed", reason=error.reason, detail=error.detail)
    log.warning("job_failed", job_id=job_id, reason=error.reason, error=error.detail)


def _recipe(
    spool: Spool, settings: EdgeSettings, slot: HeadSlot, round_: RoundV1 | None, head_steps: int | None
) -> Recipe | None:
    """How a job is made; None while that cannot be said: as `write_recipe`, and as long as a first head may yet be taken up."""
    coming = store.coming(spool) if slot.facts is None else None
    if coming == "staged":
        return None
    try:
        return write_recipe(settings, slot.facts, round_, head_steps)
    except JobFailed as error:
        # A head may be on its way for days: whoever can do without one does not wait for it.
        if error.reason == "no_head" and coming is not None:
            return None
        raise


def _plan(transaction: sqlite3.Connection, job: Job, recipe: Recipe, source: jobs.Source) -> None:
    transaction.execute(
        "UPDATE jobs SET recipe = ?, source = ? WHERE job_id = ?", (recipe.to_json(), source, job.job_id)
    )


def _take_from_stock(spool: Spool, job: Job, recipe: Recipe) -> bool:
    """Whether the job got its samples from the stock; a chosen seed needs samples of its own."""
    if job.seeded or not recipe.asks_the_server or pool.available(spool, job.label, recipe) < job.count:
        return False
    with spool.transaction() as transaction:
        if not jobs.is_open(transaction, job.job_id):
            return False  # cancelled a moment ago
        made = pool.take(transaction, job.job_id, job.label, job.count, recipe)
        if made is None:
            return False
        _plan(transaction, job, made.recipe, "pool")
        latents.forget_requests(transaction, job.job_id)
        jobs.move(transaction, job.job_id, "finishing")
        counters.add(transaction, "jobs_from_pool")
    log.info(
        "job_started_from_stock",
        job_id=job.job_id,
        count=job.count,
        label=job.label,
        # By which the history of these samples can be looked up: they were asked for long before the job.
        requests=list(made.requests[:MAX_REQUESTS_TOLD]),
        waited_seconds=_waited_seconds(job),
    )
    return True


def _waited_seconds(job: Job) -> float:
    """Since the job was accepted, perhaps by another process, which has no log."""
    return round(job.age_seconds(clock.now()), 3)
