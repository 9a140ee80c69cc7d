"""The head's part of a job: from the samples at the cut to pictures on disk, and the job's end.

Pictures are moved to their place in one step before the job is called completed, and a job whose pictures are there already is
completed without work.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from diffusion.noise import initial_noise
from edge_agent import clock
from edge_agent.errors import HeadError, JobFailed
from edge_agent.generation import jobs, latents, pool, results
from edge_agent.generation.jobs import Job
from edge_agent.generation.recipe import Recipe, noise_keys
from edge_agent.heads.calibration import HEAD_BATCH
from edge_agent.heads.energy import EnergyMeter, note_energy
from edge_agent.heads.head_slot import HeadSlot, Loaded
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory

log = structlog.get_logger(__name__)

OnStep = Callable[[int, float], None]
"""Told (images, seconds) of every step of the head; after each of them the agent may stop and a job end."""


class Interrupted(Exception):
    """The job stays as it is and is finished later: the agent is stopping, or has just given up the head that failed at it."""


class _Over(Exception):
    """The job was cancelled, or ran out of time, while the head worked for it."""


@dataclass(frozen=True, eq=False)
class _AtCut:
    """A job's samples at the cut, x (N, C, H, W) float32, the keys of their noise and the backbone's versions, (N,) int64 each.

    A version is -1 where no backbone had a part in it.
    """

    x: NDArray[np.float32]
    seeds: NDArray[np.int64]
    samples: NDArray[np.int64]
    versions: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Finished:
    """What became of them: images (N, C, H, W) float32.

    steps: (N, S+1, ...) uint8, the pixels at every place of the head's plan, None where they are not kept.
    head: who did it.  joules: None when nobody knows.
    """

    images: NDArray[np.float32]
    steps: NDArray[np.uint8] | None = None
    head: str | None = None
    seconds: float = 0.0
    joules: float | None = None


def finish(
    spool: Spool,
    job: Job,
    state: StateDirectory,
    slot: HeadSlot,
    *,
    stopping: Callable[[], bool],
    on_step: OnStep | None = None,
    between: Callable[[], None] | None = None,
    energy: EnergyMeter | None = None,
) -> None:
    """Run the head on a job whose samples at the cut are complete, write the pictures, and complete it.

    between: called between two batches of images, for what cannot wait until a large job is done.

    Raises JobFailed when that is not possible, Interrupted when the agent is stopping, SpoolFull when the disk has no room for
    the pictures: the job stays as it is, with its samples.
    """
    joules: float | None = None
    if not state.results(job.job_id).exists():
        assert job.recipe is not None
        recipe = Recipe.from_json(job.recipe)
        at_cut = _at_cut(spool, job, recipe)
        results.check_room(state, job.job_id, at_cut.x.shape, len(recipe.head_plan))
        if recipe.t_cut == 0:
            finished = _Finished(at_cut.x)
        else:
            runner = _Runner(spool, job, recipe, slot, _head_for(recipe, slot), stopping, on_step, between)
            try:
                finished = _metered(energy, partial(runner.run, at_cut))
            except _Over:
                return
        if _out_of_time(job) or _ended(spool, job):
            return  # the next look at the clock ends it, or it was cancelled
        facts = _facts(job, recipe, at_cut, finished, energy)
        results.save(state, job.job_id, finished.images, at_cut.x, steps=finished.steps, facts=facts)
        joules = finished.joules
    with spool.transaction() as transaction:
        completed = jobs.end(transaction, job.job_id, "completed")
        if completed:
            transaction.execute("UPDATE jobs SET done = count WHERE job_id = ?", (job.job_id,))
            if joules is not None:
                note_energy(transaction, job.count, joules)
    if not completed and _ended(spool, job):
        results.discard(state, job.job_id)
        return
    log.info("job_completed", job_id=job.job_id, count=job.count, first_time=completed)


@dataclass(frozen=True, eq=False)
class _Runner:
    """A head at work on one job."""

    spool: Spool
    job: Job
    recipe: Recipe
    slot: HeadSlot
    loaded: Loaded
    stopping: Callable[[], bool]
    on_step: OnStep | None
    between: Callable[[], None] | None

    def run(self, at_cut: _AtCut) -> _Finished:
        """Finish the samples, a batch at a time. Raises Interrupted, or _Over when there is nothing to finish any more."""
        images = np.empty_like(at_cut.x)
        steps = results.room_for_steps(len(self.recipe.head_plan), at_cut.x.shape)
        started = time.perf_counter()
        for first in range(0, self.job.count, HEAD_BATCH):
            if first and self.between is not None:
                self.between()
            if self.stopping():
                raise Interrupted
            if _out_of_time(self.job) or _ended(self.spool, self.job):
                break
            batch = slice(first, min(first + HEAD_BATCH, self.job.count))
            images[batch] = self._finish_batch(at_cut, batch, None if steps is None else steps[batch])
            self.slot.images += len(images[batch])
            jobs.note_progress(self.spool, self.job.job_id, batch.stop, time.perf_counter() - started)
        return _Finished(images, steps, self.loaded.facts.identity, time.perf_counter() - started)

    def _check_wanted(self) -> None:
        """Between two steps: raises Interrupted when the agent stops, _Over when nobody waits for the images any more."""
        if self.stopping():
            raise Interrupted
        if _out_of_time(self.job) or _ended(self.spool, self.job):
            raise _Over

    def _finish_batch(
        self, at_cut: _AtCut, batch: slice, steps: NDArray[np.uint8] | None
    ) -> NDArray[np.float32]:
        x = at_cut.x[batch]

        def on_step(_t: int, s: int, seconds: float) -> None:
            if self.on_step is not None:
                self.on_step(len(x), seconds)
            if s != self.recipe.head_plan[-1]:  # a batch that is done is not thrown away
                self._check_wanted()

        try:
            finished = self.loaded.head.finish(
                x,
                self.recipe.head_plan,
                sampler=self.recipe.sampler,
                eta=self.recipe.eta,
                clip=self.recipe.clip,
                seeds=at_cut.seeds[batch].astype(np.uint64),
                samples=at_cut.samples[batch],
                labels=None if self.job.label is None else np.full(len(x), self.job.label, np.int64),
                on_step=on_step,
                on_state=None if steps is None else partial(_keep_pixels, steps),
            )
            _check_finite(finished)
        except HeadError as error:
            if self.slot.note_failure(str(error)):
                raise Interrupted from error  # of a new head: the one before it does the job
            raise JobFailed("head_error", str(error)) from error
        return finished


def _check_finite(images: NDArray[np.float32]) -> None:
    if not np.isfinite(images).all():
        raise HeadError("the head made images that are not all finite numbers")


def _keep_pixels(steps: NDArray[np.uint8], index: int, x: NDArray[np.float32]) -> None:
    for kept, image in zip(steps, x, strict=True):
        kept[index] = results.as_pixels(image)


def _metered(energy: EnergyMeter | None, work: Callable[[], _Finished]) -> _Finished:
    """Do the work and note what it took of energy, where that can be known."""
    if energy is None:
        return work()
    before = energy.read()
    finished = work()
    return replace(finished, joules=energy.joules_since(before, finished.seconds))


def _at_cut(spool: Spool, job: Job, recipe: Recipe) -> _AtCut:
    """From the stock, from the server, or pure noise of our own when the whole chain is local."""
    if job.source == "pool":
        taken = pool.gather(spool, job.job_id, recipe.shape)
        return _AtCut(taken.x, taken.seeds, taken.samples, taken.versions)
    seeds, samples = noise_keys(job.count, job.seed)
    if recipe.asks_the_server:
        x = latents.gather(spool, job.job_id, job.count, recipe.shape)
        return _AtCut(x, seeds, samples, latents.versions(spool, job.job_id, job.count))
    noise = initial_noise(seeds, samples, recipe.schedule_steps, recipe.shape)
    return _AtCut(noise, seeds, samples, np.full(job.count, -1, np.int64))


def _facts(
    job: Job, recipe: Recipe, at_cut: _AtCut, finished: _Finished, energy: EnergyMeter | None
) -> dict[str, Any]:
    """What `job.json` says: enough to make each picture again, and what it took.

    A picture from the stock has its noise from the request it was made by, and the job's own seed says nothing of it.
    """
    newest = int(at_cut.versions.max())
    versions = [None if version < 0 else version for version in at_cut.versions.tolist()]
    keys = zip(at_cut.seeds.tolist(), at_cut.samples.tolist(), versions, strict=True)
    return {
        "job_id": job.job_id,
        "seed": None if job.source == "pool" else job.seed,
        "seeded": job.seeded,
        "label": job.label,
        "source": job.source,
        "head": finished.head,
        "backbone_version": None if newest < 0 else newest,
        "schedule_id": recipe.schedule_id,
        "server_plan": recipe.server_plan,
        "head_plan": recipe.head_plan,
        "sampler": recipe.sampler,
        "eta": recipe.eta,
        "clip": recipe.clip,
        "head_seconds": round(finished.seconds, 6),
        "joules": None if finished.joules is None else round(finished.joules, 6),
        "joules_are": None if finished.joules is None or energy is None else energy.kind,
        "images": [
            {"seed": seed, "sample": sample, "backbone_version": version} for seed, sample, version in keys
        ],
    }


def _head_for(recipe: Recipe, slot: HeadSlot) -> Loaded:
    """The loaded head, if it can finish what was begun for this recipe; a newer head of the same cut can."""
    if slot.loaded is None:
        raise JobFailed(
            "no_head",
            f"the head {recipe.head} that this job was begun with is gone: set --head and ask again",
        )
    facts = slot.loaded.facts
    if facts.at_cut != recipe.at_cut:
        raise JobFailed(
            "head_changed",
            f"this job was begun for the head {recipe.head} (schedule {recipe.schedule_id}, t_cut {recipe.t_cut}), loaded"
            f" is {facts.identity} (schedule {facts.schedule.schedule_id}, t_cut {facts.t_cut}): ask again",
        )
    return slot.loaded


def _out_of_time(job: Job) -> bool:
    return job.remaining_seconds(clock.now()) == 0.0


def _ended(spool: Spool, job: Job) -> bool:
    """Whether the job was cancelled or expired by another hand since it was read."""
    now = jobs.find(spool, job.job_id)
    return now is None or (now.ended and now.state != "completed")
