"""Taking jobs through their states: asking the server, finishing with the head, ending each exactly once.

Every step is one transaction and can be repeated: whoever starts the agent after a crash finds each job before a step or after
it. The request of a job is written to the outbox together with the state that says so; pictures are moved to their place in one
step before the job is called completed, and a job whose pictures are there already is completed without work.
"""

import time
import uuid
from collections.abc import Callable

import numpy as np
import structlog
from numpy.typing import NDArray

from diffusion.noise import initial_noise
from edge_agent import clock
from edge_agent.errors import HeadError, JobFailed
from edge_agent.generation import jobs, latents, results
from edge_agent.generation.jobs import Job
from edge_agent.generation.recipe import (
    Recipe,
    check_label,
    denoise_request,
    noise_keys,
    slices,
    write_recipe,
)
from edge_agent.heads.head import Head
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import contract, outbox
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory

log = structlog.get_logger(__name__)

HEAD_BATCH = 16
"""Images per network call of the head; between two calls the agent may stop or a job expire."""

OnStep = Callable[[int, int, float], None]


class Interrupted(Exception):
    """The job stays as it is and is finished later: the agent is stopping, or has just given up the head that failed at it."""


def start(spool: Spool, job: Job, settings: EdgeSettings, slot: HeadSlot) -> bool:
    """Plan an accepted job and write its requests to the outbox; False when it has to wait for the server's contract.

    Raises JobFailed when it can never be made as things are, OutboxFull when it has to wait for room.
    """
    round_ = contract.latest(spool)
    recipe = write_recipe(settings, slot.facts, round_, job.head_steps)
    if recipe is None:
        return False
    check_label(job.label, slot.facts, round_)
    ttl_seconds = job.remaining_seconds(clock.now())
    if ttl_seconds == 0.0:
        return False  # about to be expired
    with spool.transaction() as transaction:
        transaction.execute(
            "UPDATE jobs SET recipe = ?, source = ? WHERE job_id = ?",
            (recipe.to_json(), "server" if recipe.asks_the_server else "local", job.job_id),
        )
        jobs.move(transaction, job.job_id, "requested" if recipe.asks_the_server else "finishing")
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
    log.info("job_started", job_id=job.job_id, count=job.count, asks_the_server=recipe.asks_the_server)
    return True


def finish(
    spool: Spool,
    job: Job,
    state: StateDirectory,
    slot: HeadSlot,
    *,
    stopping: Callable[[], bool],
    on_step: OnStep | None = None,
) -> None:
    """Run the head on a job whose samples at the cut are complete, write the pictures, and complete it.

    Raises JobFailed when that is not possible, Interrupted when the agent is stopping.
    """
    if not state.results(job.job_id).exists():
        assert job.recipe is not None
        recipe = Recipe.from_json(job.recipe)
        at_cut = _at_cut(spool, job, recipe)
        images = (
            at_cut
            if recipe.t_cut == 0
            else _run_head(spool, job, recipe, at_cut, slot=slot, stopping=stopping, on_step=on_step)
        )
        if _out_of_time(job):
            return  # the next look at the clock ends it
        results.save(state, job.job_id, images, at_cut)
    with spool.transaction() as transaction:
        completed = jobs.end(transaction, job.job_id, "completed")
        transaction.execute("UPDATE jobs SET done = count WHERE job_id = ?", (job.job_id,))
    log.info("job_completed", job_id=job.job_id, count=job.count, first_time=completed)


def fail(spool: Spool, job_id: str, error: JobFailed) -> None:
    """End a job with its reason."""
    with spool.transaction() as transaction:
        jobs.end(transaction, job_id, "failed", reason=error.reason, detail=error.detail)
    log.warning("job_failed", job_id=job_id, reason=error.reason, error=error.detail)


def _at_cut(spool: Spool, job: Job, recipe: Recipe) -> NDArray[np.float32]:
    """The job's samples at the cut: from the server, or pure noise of our own when the whole chain is local."""
    if recipe.asks_the_server:
        return latents.gather(spool, job.job_id, job.count, recipe.shape)
    seeds, samples = noise_keys(job.count, job.seed)
    return initial_noise(seeds, samples, recipe.schedule_steps, recipe.shape)


def _run_head(
    spool: Spool,
    job: Job,
    recipe: Recipe,
    at_cut: NDArray[np.float32],
    *,
    slot: HeadSlot,
    stopping: Callable[[], bool],
    on_step: OnStep | None,
) -> NDArray[np.float32]:
    head = _head_for(recipe, slot)
    seeds, samples = noise_keys(job.count, job.seed)
    labels = None if job.label is None else np.full(job.count, job.label, np.int64)
    images = np.empty_like(at_cut)
    started = time.perf_counter()
    for first in range(0, job.count, HEAD_BATCH):
        if stopping():
            raise Interrupted
        if _out_of_time(job):
            return images
        batch = slice(first, min(first + HEAD_BATCH, job.count))
        try:
            finished = head.finish(
                at_cut[batch],
                recipe.head_plan,
                sampler=recipe.sampler,
                eta=recipe.eta,
                clip=recipe.clip,
                seeds=seeds[batch].astype(np.uint64),
                samples=samples[batch],
                labels=None if labels is None else labels[batch],
                on_step=on_step,
            )
            _check_finite(finished)
        except HeadError as error:
            if slot.note_failure(str(error)):
                raise Interrupted from error  # of a new head: the one before it does the job
            raise JobFailed("head_error", str(error)) from error
        images[batch] = finished
        slot.images += len(finished)
        jobs.note_progress(spool, job.job_id, batch.stop, time.perf_counter() - started)
    return images


def _check_finite(images: NDArray[np.float32]) -> None:
    if not np.isfinite(images).all():
        raise HeadError("the head made images that are not all finite numbers")


def _head_for(recipe: Recipe, slot: HeadSlot) -> Head:
    """The loaded head, if it can finish what was begun for this recipe; a newer head of the same cut can."""
    if slot.loaded is None:
        raise JobFailed(
            "no_head",
            f"the head {recipe.head} that this job was begun with is gone: set --head and ask again",
        )
    facts = slot.loaded.facts
    if (facts.schedule.schedule_id, facts.t_cut, facts.shape) != (
        recipe.schedule_id,
        recipe.t_cut,
        recipe.shape,
    ):
        raise JobFailed(
            "head_changed",
            f"this job was begun for the head {recipe.head} (schedule {recipe.schedule_id}, t_cut {recipe.t_cut}), loaded"
            f" is {facts.identity} (schedule {facts.schedule.schedule_id}, t_cut {facts.t_cut}): ask again",
        )
    return slot.loaded.head


def _out_of_time(job: Job) -> bool:
    return job.remaining_seconds(clock.now()) == 0.0
