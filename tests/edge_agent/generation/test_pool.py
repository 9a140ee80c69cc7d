import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from broker.contract.denoise import DenoiseV1
from edge_agent import clock
from edge_agent.generation import jobs, lifecycle, pool, pool_requests
from edge_agent.generation.jobs import Job
from edge_agent.generation.recipe import Recipe, Slice, denoise_request, write_recipe
from edge_agent.generation.waiting import why_it_waits
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from tests.edge_agent.generation.stock import answer, deliver, part, shelf

MakeSettings = Callable[..., EdgeSettings]
SHAPE = (1, 8, 8)


@pytest.fixture
def recipe(settings: MakeSettings, slot: HeadSlot) -> Recipe:
    recipe = write_recipe(settings(), slot.facts, None)
    assert recipe is not None
    return recipe


numbers = itertools.count(1)


def ask(
    spool: Spool, recipe: Recipe, samples: int, label: int | None = None, wanted: int = 4096
) -> DenoiseV1:
    """Ask for samples as the keeper does, but without an outbox."""
    pool.set_wanted(spool, (label,), wanted)
    number = next(numbers)
    request = denoise_request(
        recipe,
        Slice(0, samples, number),
        request_id=f"{number:032x}",
        label=label,
        dtype="float16",
        ttl_seconds=60,
        priority="prefetch",
    )
    with spool.transaction() as transaction:
        pool_requests.note_request(
            transaction, request, label=label, recipe=recipe, quota_bytes=2**20, renews=None
        )
    return request


def accept(spool: Spool, count: int, *, seeded: bool = False, label: int | None = None) -> Job:
    job_id = jobs.accept(
        spool, count=count, label=label, seed=7, ttl_seconds=None, moment=clock.now(), seeded=seeded
    )
    return found(spool, job_id)


def found(spool: Spool, job_id: str) -> Job:
    job = jobs.find(spool, job_id)
    assert job is not None
    return job


def held(spool: Spool, job_id: str) -> list[tuple[int, int]]:
    """The noise keys of what a job took; every sample is checked to be the one that its key says."""
    taken = pool.gather(spool, job_id, SHAPE)
    keys = list(zip(taken.seeds.tolist(), taken.samples.tolist(), strict=True))
    for (seed, sample), x in zip(keys, taken.x, strict=True):
        assert (x[0, 0, 0], x[0, 0, 1]) == (sample, seed % 2048)
    return keys


def test_a_job_without_a_seed_takes_the_oldest_samples_and_no_other_gets_them(
    spool: Spool, settings: MakeSettings, slot: HeadSlot, recipe: Recipe
) -> None:
    request = ask(spool, recipe, 5)
    answer(spool, request, backbone_version=3)
    first, second, third = (accept(spool, 2) for _ in range(3))

    for job in (first, second, third):
        assert lifecycle.start(spool, job, settings(), slot, connected=True)

    assert held(spool, first.job_id) == [(request.seed, 0), (request.seed, 1)]
    assert held(spool, second.job_id) == [(request.seed, 2), (request.seed, 3)]
    assert pool.gather(spool, first.job_id, SHAPE).versions.tolist() == [3, 3]
    states = [found(spool, job.job_id) for job in (first, second, third)]
    assert [(job.state, job.source) for job in states] == [
        ("finishing", "pool"),
        ("finishing", "pool"),
        ("requested", "server"),
    ]
    assert shelf(spool).images == 1
    with spool.transaction() as transaction:
        jobs.end(transaction, first.job_id, "completed")
    assert held(spool, first.job_id) == []


def test_the_recipe_is_the_one_that_the_samples_were_made_with(
    spool: Spool, settings: MakeSettings, slot: HeadSlot
) -> None:
    made = write_recipe(settings(server_steps=9, sampler="ddpm"), slot.facts, None)
    assert made is not None
    answer(spool, ask(spool, made, 2))
    job = accept(spool, 2)

    lifecycle.start(spool, job, settings(server_steps=5, head_steps=3), slot)

    text = found(spool, job.job_id).recipe
    assert text is not None
    recipe = Recipe.from_json(text)
    assert (recipe.server_plan, recipe.sampler) == (made.server_plan, "ddpm")
    assert (len(recipe.head_plan), recipe.head_plan[0], recipe.head_plan[-1]) == (4, 60, 0)


def test_one_job_never_mixes_samples_of_different_server_plans(
    spool: Spool, settings: MakeSettings, slot: HeadSlot, recipe: Recipe
) -> None:
    other = write_recipe(settings(server_steps=9), slot.facts, None)
    assert other is not None
    answer(spool, ask(spool, recipe, 2))
    answer(spool, ask(spool, other, 3))
    assert pool.available(spool, None) == 3

    jobs_ = [accept(spool, count) for count in (4, 3, 2)]
    for job in jobs_:
        lifecycle.start(spool, job, settings(), slot)

    assert [found(spool, job.job_id).source for job in jobs_] == ["server", "pool", "pool"]


@pytest.mark.parametrize(
    ("use", "connected", "seeded", "source"),
    [
        ("always", True, False, "pool"),
        ("always", False, False, "pool"),
        ("offline", True, False, "server"),
        ("offline", False, False, "pool"),
        ("always", False, True, "server"),
    ],
)
def test_the_stock_is_used_when_the_settings_say_so_and_never_for_a_chosen_seed(
    spool: Spool,
    settings: MakeSettings,
    slot: HeadSlot,
    recipe: Recipe,
    use: str,
    connected: bool,
    seeded: bool,
    source: str,
) -> None:
    answer(spool, ask(spool, recipe, 2))
    job = accept(spool, 2, seeded=seeded)
    lifecycle.start(spool, job, settings(pool_use=use), slot, connected=connected)
    assert found(spool, job.job_id).source == source


def test_labels_have_shelves_of_their_own(
    spool: Spool, settings: MakeSettings, slot: HeadSlot, recipe: Recipe
) -> None:
    answer(spool, ask(spool, recipe, 2, label=1))
    for label, source in ((None, "server"), (0, "server"), (1, "pool")):
        job = accept(spool, 2, label=label)
        lifecycle.start(spool, job, settings(), slot)
        assert found(spool, job.job_id).source == source


def test_a_full_outbox_does_not_keep_a_job_from_the_stock(
    spool: Spool, settings: MakeSettings, slot: HeadSlot, recipe: Recipe
) -> None:
    answer(spool, ask(spool, recipe, 2))
    with spool.transaction() as transaction:
        transaction.execute(
            "INSERT INTO outbox (message_id, priority, kind, type, size_bytes, created_at, body)"
            " VALUES ('big', 2, 'samples', 'samples.v1', ?, 0, '')",
            (2**20,),
        )
    job = accept(spool, 2)
    assert lifecycle.start(spool, job, settings(outbox_max_bytes=2**20), slot)
    assert found(spool, job.job_id).source == "pool"


def test_a_job_that_waits_for_a_server_out_of_reach_gets_what_came_into_stock_meanwhile(
    spool: Spool, settings: MakeSettings, slot: HeadSlot, recipe: Recipe
) -> None:
    job = accept(spool, 2)
    lifecycle.start(spool, job, settings(), slot)
    (request_id,) = spool.rows("SELECT request_id FROM requests")[0]
    assert not lifecycle.serve_from_stock(spool, found(spool, job.job_id))
    answer(spool, ask(spool, recipe, 2))

    assert lifecycle.serve_from_stock(spool, found(spool, job.job_id))

    assert (found(spool, job.job_id).state, found(spool, job.job_id).source) == ("finishing", "pool")
    assert spool.rows("SELECT * FROM outbox") == []
    late = ask(spool, recipe, 2).model_copy(update={"request_id": request_id})
    assert deliver(spool, part(late, 0, 2)) == "late"


def test_a_job_of_which_a_part_has_come_gets_the_whole_from_the_stock(
    spool: Spool, settings: MakeSettings, slot: HeadSlot, recipe: Recipe
) -> None:
    job = accept(spool, 4)
    lifecycle.start(spool, job, settings(), slot)
    (request_id,) = spool.rows("SELECT request_id FROM requests")[0]
    stocked = ask(spool, recipe, 4)
    of_the_job = stocked.model_copy(update={"request_id": request_id})
    deliver(spool, part(of_the_job, 0, 2))
    assert found(spool, job.job_id).state == "partial"
    answer(spool, stocked)

    assert lifecycle.serve_waiting_from_stock(spool) == 1

    assert (found(spool, job.job_id).state, found(spool, job.job_id).source) == ("finishing", "pool")
    assert held(spool, job.job_id) == [(stocked.seed, sample) for sample in range(4)]
    assert spool.rows("SELECT * FROM latents") == []
    assert deliver(spool, part(of_the_job, 2, 2)) == "late"


def test_a_repeat_of_what_was_used_is_not_taken_into_stock_again(spool: Spool, recipe: Recipe) -> None:
    request = ask(spool, recipe, 4)
    deliver(spool, part(request, 0, 2))
    job = accept(spool, 2)
    with spool.transaction() as transaction:
        assert pool.take(transaction, job.job_id, None, 2, recipe)

    deliver(spool, part(request, 0, 3))

    assert shelf(spool).images == 1
    deliver(spool, part(request, 3, 1))
    assert shelf(spool).images == 2
    assert deliver(spool, part(request, 0, 4)) == "late"


def test_requests_are_forgotten_when_all_that_they_brought_is_used(spool: Spool, recipe: Recipe) -> None:
    for _ in range(3):
        answer(spool, ask(spool, recipe, 2))
    job = accept(spool, 6)
    with spool.transaction() as transaction:
        assert pool.take(transaction, job.job_id, None, 6, recipe)
    assert spool.rows("SELECT count(*) FROM pool_requests")[0][0] == 0
    assert spool.rows("SELECT count(*) FROM pool_latents")[0][0] == 0


def test_the_one_who_waits_is_told_what_is_in_stock(spool: Spool, recipe: Recipe) -> None:
    answer(spool, ask(spool, recipe, 3))

    def words(job: Job, *, connected: bool = False) -> str | None:
        return why_it_waits(spool, job, connected=connected, has_head=True)

    assert words(accept(spool, 3)) is None
    assert words(accept(spool, 4)) == (
        "3 of 4 images without a label are in stock: the job waits for the link to the server"
    )
    pool.set_wanted(spool, (None, 1), 5)
    assert words(accept(spool, 4, label=1)) == (
        "0 of 4 images of label 1 are in stock: the job waits for the link to the server"
    )
    assert words(accept(spool, 1, seeded=True)) == (
        "a chosen seed needs the server: leave out --seed to use the stock of 3 images without a label"
    )
    assert words(accept(spool, 1, seeded=True, label=1)) == "the job waits for the link to the server"
    assert words(accept(spool, 4), connected=True) is None


def test_without_a_stock_of_the_label_the_one_who_waits_is_told_to_wait_for_the_link(
    spool: Spool, settings: MakeSettings, slot: HeadSlot
) -> None:
    job = accept(spool, 4, label=2)
    assert why_it_waits(spool, job, connected=False, has_head=True) is None, "it may need no server"
    seen = dataclasses.replace(job, carried_seconds=5.0)
    assert (
        why_it_waits(spool, seen, connected=False, has_head=True)
        == "the job waits for the link to the server"
    )
    lifecycle.start(spool, job, settings(), slot, connected=False)
    asked = found(spool, job.job_id)
    assert (
        why_it_waits(spool, asked, connected=False, has_head=True)
        == "the job waits for the link to the server"
    )
    assert why_it_waits(spool, asked, connected=True, has_head=True) is None


class Crash(Exception):
    """The process dies here."""


@contextlib.contextmanager
def maybe_crashing(spool: Spool, *, crash: bool) -> Iterator[Any]:
    """A transaction, after whose last statement the process may die; what it had written is then not there."""
    with contextlib.suppress(Crash), spool.transaction() as transaction:
        yield transaction
        if crash:
            raise Crash


class History:
    """A stock and all that may happen to it; after each event it is checked who has which sample."""

    def __init__(self, path: Path, recipe: Recipe, wanted: int, opened: contextlib.ExitStack) -> None:
        self.used: dict[tuple[int, int], str] = {}
        self._path, self._recipe, self._wanted, self._opened = path, recipe, wanted, opened
        self._asked: list[DenoiseV1] = []
        self.reopen()
        self.ask(4)

    def reopen(self) -> None:
        self._spool = self._opened.enter_context(Spool(self._path))

    def ask(self, samples: int) -> None:
        self._asked.append(ask(self._spool, self._recipe, samples, wanted=self._wanted))

    def answer(self, which: int, first: int, count: int, crash: bool) -> None:
        request = self._asked[which % len(self._asked)]
        first = min(first, request.n - 1)
        with maybe_crashing(self._spool, crash=crash) as transaction:
            pool_requests.take_answer(transaction, part(request, first, min(count, request.n - first)))

    def take(self, count: int, crash: bool) -> None:
        job = accept(self._spool, count)
        with maybe_crashing(self._spool, crash=crash) as transaction:
            pool.take(transaction, job.job_id, None, count, self._recipe)

    def wait(self, seconds: float) -> None:
        pool_requests.count_waiting(self._spool, seconds)

    def end(self, which: int, crash: bool) -> None:
        waiting = jobs.unfinished(self._spool)
        if waiting:
            with maybe_crashing(self._spool, crash=crash) as transaction:
                jobs.end(transaction, waiting[which % len(waiting)].job_id, "completed")

    def check(self) -> None:
        for job in jobs.unfinished(self._spool):
            for key in held(self._spool, job.job_id):
                assert self.used.setdefault(key, job.job_id) == job.job_id
        assert shelf(self._spool).images <= self._wanted
        in_stock = self._spool.rows(
            "SELECT r.seed, l.sample FROM pool_latents l JOIN pool_requests r USING (request_id)"
            " WHERE l.x IS NOT NULL"
        )
        assert not {tuple(row) for row in in_stock} & set(self.used), "what is used is not in stock"


asks = st.tuples(st.just("ask"), st.integers(1, 5))
answers = st.tuples(st.just("answer"), st.integers(0, 2), st.integers(0, 3), st.integers(1, 3), st.booleans())
takes = st.tuples(st.just("take"), st.integers(1, 2), st.booleans())
others = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1.0, 61.0])),
    st.tuples(st.just("end"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("reopen")),
)
events = st.lists(st.one_of(answers, answers, takes, takes, asks, others), min_size=4, max_size=40)


@hypothesis_settings(max_examples=60, deadline=None)
@given(events, st.integers(1, 12))
@example([("answer", 0, 0, 2, False), ("take", 1, False), ("answer", 0, 0, 2, False), ("take", 2, False)], 12)
@example([("answer", 0, 0, 3, False), ("take", 2, True), ("reopen",), ("take", 2, False)], 3)
def test_no_sample_is_used_twice_whatever_is_repeated_and_wherever_it_crashes(
    recipe_of_the_stock: Recipe, happened: list[tuple[Any, ...]], wanted: int
) -> None:
    """Any history of requests, answers in any cut and as often as you like, jobs, and crashes in each of them."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as opened:
        history = History(Path(directory) / "spool.sqlite3", recipe_of_the_stock, wanted, opened)
        for what, *arguments in happened:
            getattr(history, what)(*arguments)
            history.check()


@pytest.fixture(scope="module")
def recipe_of_the_stock() -> Recipe:
    return Recipe(
        schedule_id="0123456789abcdef",
        schedule_steps=200,
        shape=SHAPE,
        server_plan=(200, 100, 60),
        head_plan=(60, 0),
        sampler="ddim",
        eta=0.0,
        clip=1.0,
        head="ward",
    )


def test_what_a_job_takes_is_in_the_order_of_the_job(spool: Spool, recipe: Recipe) -> None:
    request = ask(spool, recipe, 6)
    for first in (4, 0, 2):
        deliver(spool, part(request, first, 2))
    job = accept(spool, 6)
    with spool.transaction() as transaction:
        pool.take(transaction, job.job_id, None, 6, recipe)
    taken = pool.gather(spool, job.job_id, SHAPE)
    np.testing.assert_array_equal(taken.x[:, 0, 0, 0], taken.samples)
    assert sorted(taken.samples.tolist()) == list(range(6))
