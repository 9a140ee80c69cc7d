"""Step plans: their ends, their spacing, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.errors import PlanError
from diffusion.plan import SPACINGS, check_plan, plan
from diffusion.schedule import SCHEDULES, NoiseSchedule


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(SCHEDULES),
    spacing=st.sampled_from(SPACINGS),
    T=st.integers(1, 1000),
    evaluations=st.integers(1, 1200),
    data=st.data(),
)
def test_a_plan_falls_strictly_between_its_ends(
    name: str, spacing: str, T: int, evaluations: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, T))
    stop = data.draw(st.integers(0, start))
    steps = plan(NoiseSchedule.named(name, T), start, stop, evaluations, spacing)
    assert steps[0] == start
    assert steps[-1] == stop
    assert len(steps) == min(evaluations, start - stop) + 1
    assert all(type(t) is int for t in steps)
    check_plan(steps, T)


def test_uniform_strides_differ_by_one_at_most() -> None:
    strides = -np.diff(plan(NoiseSchedule.linear(), 1000, 200, 7))
    assert strides.max() - strides.min() <= 1


def test_log_snr_strides_are_even_in_log_snr() -> None:
    schedule = NoiseSchedule.linear()
    steps = plan(schedule, 1000, 100, 10, "log_snr")
    strides = np.diff(schedule.log_snr[list(steps)])
    np.testing.assert_allclose(strides, strides.mean(), rtol=0.05)


def test_more_evaluations_than_steps_means_every_step() -> None:
    schedule = NoiseSchedule.cosine(10)
    for spacing in SPACINGS:
        assert plan(schedule, 10, 6, 99, spacing) == (10, 9, 8, 7, 6)
        assert plan(schedule, 3, 3, 99, spacing) == (3,)


def test_a_server_plan_and_a_head_plan_join_into_one() -> None:
    schedule = NoiseSchedule.linear()
    server, head = plan(schedule, 1000, 200, 16), plan(schedule, 200, 0, 4)
    check_plan(server + head[1:], 1000)
    assert len(server + head[1:]) == 21


@pytest.mark.parametrize(
    ("start", "stop", "evaluations", "spacing"),
    [
        (10, 20, 5, "uniform"),
        (101, 0, 5, "uniform"),
        (10, -1, 5, "uniform"),
        (10, 0, 0, "uniform"),
        (10, 0, 5, "even"),
    ],
)
def test_a_request_without_sense_is_refused(start: int, stop: int, evaluations: int, spacing: str) -> None:
    with pytest.raises(PlanError):
        plan(NoiseSchedule.linear(100), start, stop, evaluations, spacing)


@pytest.mark.parametrize(
    "steps", [(), (5, 5), (3, 7), (101, 0), (10, -1), (10.5, 0), (True, False), ("9", "3")]
)
def test_a_broken_plan_is_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(PlanError):
        check_plan(steps, 100)
