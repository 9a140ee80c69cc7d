from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_worker.settings import TrainSettings
from server_worker.training.plan import TrainPlan, learning_rate, train_plan

PLAN = TrainPlan(
    lr=1e-3,
    weight_decay=0.0,
    warmup_steps=10,
    gradient_norm=1.0,
    ema_decay=0.9,
    seed=0,
    steps=110,
    lr_final=0.1,
)


def test_the_rate_rises_to_its_peak_and_falls_by_a_cosine_to_its_share() -> None:
    rates = [learning_rate(PLAN, step) for step in range(110)]

    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[109] == pytest.approx(1e-4)
    assert (rates[59] + rates[60]) / 2 == pytest.approx((1e-3 + 1e-4) / 2)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_training_without_an_end_keeps_its_rate() -> None:
    endless = replace(PLAN, steps=None)
    assert {learning_rate(endless, step) for step in (10, 1000, 10**9)} == {1e-3}


@given(st.integers(0, 50), st.none() | st.integers(0, 50), st.integers(0, 200), st.floats(0, 1))
def test_no_rate_is_ever_above_the_peak_or_below_nothing(
    warmup: int, steps: int | None, step: int, final: float
) -> None:
    plan = replace(PLAN, warmup_steps=warmup, steps=steps, lr_final=final)
    assert 0 <= learning_rate(plan, step) <= plan.lr * (1 + 1e-12)


def test_the_settings_are_the_plan() -> None:
    plan = train_plan(TrainSettings(steps=7, lr_final=0.3, precision="bfloat16"))
    assert (plan.steps, plan.lr_final, plan.precision) == (7, 0.3, "bfloat16")
