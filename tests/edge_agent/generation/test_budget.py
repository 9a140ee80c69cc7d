from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import clock
from edge_agent.errors import JobRefused
from edge_agent.generation import jobs
from edge_agent.generation.budget import Budget, Choice, Planner, choose, most_steps
from edge_agent.generation.jobs import Job
from edge_agent.heads.calibration import HEAD_BATCH, StepCost, StepMeter
from edge_agent.heads.energy import EnergyMeter
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool

MakeSettings = Callable[..., EdgeSettings]
amounts = st.floats(1e-6, 1e6)


@given(amounts, amounts, st.integers(1, 1000))
def test_the_most_steps_fit_the_budget_and_one_more_does_not(budget: float, cost: float, limit: int) -> None:
    steps = most_steps(budget, cost, limit)
    assert 0 <= steps <= limit
    assert steps * cost <= budget
    assert steps == limit or (steps + 1) * cost > budget


@given(st.integers(1, 500), st.integers(1, 500))
def test_a_budget_of_so_many_steps_buys_so_many(steps: int, parts: int) -> None:
    cost = float(Fraction(1, parts))
    assert most_steps(steps * cost, cost, 1000) == steps


def test_the_tighter_of_two_budgets_counts() -> None:
    both = Budget(seconds=0.1, joules=1.0)
    assert choose(both, 0.01, 0.5, 60) == Choice(2, "1 J for an image, at 0.5 J a step")
    assert choose(both, 0.05, 0.1, 60) == Choice(2, "100 ms for an image, at 50 ms a step")
    assert choose(both, 0.001, 0.001, 60).head_steps == 60


def test_a_budget_that_pays_for_nothing_gives_one_step_and_says_so() -> None:
    choice = choose(Budget(seconds=0.001), 0.004, None, 60)
    assert (choice.head_steps, choice.enough) == (1, False)
    assert choice.why == "the budget does not pay for a single step: 1 ms for an image, at 4 ms a step"


def test_larger_batches_are_shared_by_their_images() -> None:
    cost = StepCost(seconds_one=0.01, seconds_batch=0.04, joules_one=1.0, joules_batch=4.0, kind="estimated")
    assert cost.seconds(1) == 0.01
    assert cost.seconds(HEAD_BATCH) == pytest.approx(0.04 / HEAD_BATCH)
    assert cost.seconds(2 * HEAD_BATCH) == pytest.approx(0.04 / HEAD_BATCH)
    assert cost.seconds(HEAD_BATCH + 1) == pytest.approx(0.05 / (HEAD_BATCH + 1))
    assert cost.seconds(2) == pytest.approx((0.01 + 0.03 / 15) / 2)
    assert cost.joules(1) == 1.0
    assert StepCost(0.01, 0.04).joules(3) is None


@pytest.fixture
def meter(spool: Spool, slot: HeadSlot) -> StepMeter:
    """Knows the loaded head; a step of one image takes 2 ms, of sixteen 8 ms."""
    meter = StepMeter(spool, EnergyMeter(), 1)
    meter.look(slot.loaded)
    meter.cost = StepCost(0.002, 0.008)
    return meter


def accepted(spool: Spool, count: int = 1, **changes: float) -> Job:
    job_id = jobs.accept(
        spool,
        count=count,
        label=None,
        seed=1,
        ttl_seconds=None,
        moment=clock.now(),
        **changes,  # type: ignore[arg-type]
    )
    job = jobs.find(spool, job_id)
    assert job is not None
    return job


def test_the_job_comes_before_the_budget_and_the_budget_before_the_settings(
    spool: Spool, settings: MakeSettings, slot: HeadSlot, meter: StepMeter
) -> None:
    plain = Planner(settings(head_steps=7), meter)
    bounded = Planner(settings(head_steps=7, budget_ms=20), meter)

    assert plain.head_steps(accepted(spool), slot.facts) == 7
    assert bounded.head_steps(accepted(spool), slot.facts) == 10
    assert bounded.head_steps(accepted(spool, count=16), slot.facts) == 40
    assert bounded.head_steps(accepted(spool, head_steps=3), slot.facts) == 3
    assert plain.head_steps(accepted(spool, budget_ms=5.0), slot.facts) == 2
    assert plain.head_steps(accepted(spool, budget_ms=5.0, head_steps=9), slot.facts) == 9
    assert bounded.facts(slot.facts)["why"] == "20 ms for an image, at 2 ms a step"
    assert bounded.facts(slot.facts)["head_steps"] == 10
    assert bounded.facts(slot.facts)["step_ms"] == 2.0
    assert bounded.facts(None)["why"] == "the settings say so, for no head has been measured yet"


@pytest.mark.parametrize("budget_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_budget_is_refused(spool: Spool, budget_ms: float) -> None:
    with pytest.raises(JobRefused, match="ms is no budget"):
        accepted(spool, budget_ms=budget_ms)
