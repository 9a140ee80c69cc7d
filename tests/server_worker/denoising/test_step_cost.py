from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_worker.denoising.step_cost import StepCost, batch_sizes

MEASURED = st.dictionaries(st.integers(1, 512), st.floats(1e-5, 10.0), min_size=1, max_size=12)


@given(MEASURED, st.integers(1, 1024), st.integers(1, 1024))
def test_a_larger_step_never_costs_less(measured: dict[int, float], one: int, other: int) -> None:
    cost = StepCost.measured(measured)
    least, greatest = sorted((one, other))
    assert cost.of(least) <= cost.of(greatest) * (1 + 1e-12)


@given(MEASURED, st.floats(1e-6, 100.0))
def test_what_is_said_to_fit_into_a_time_does(measured: dict[int, float], seconds: float) -> None:
    cost = StepCost.measured(measured)
    samples = cost.samples_within(seconds)
    if samples:
        assert cost.of(samples) <= seconds * (1 + 1e-9)
    else:
        assert cost.of(1) > seconds


def test_costs_between_measurements_are_on_the_line_and_beyond_them_in_proportion() -> None:
    cost = StepCost.measured({1: 0.010, 4: 0.016, 8: 0.030})
    assert cost.of(2) == pytest.approx(0.012)
    assert cost.of(6) == pytest.approx(0.023)
    assert cost.of(16) == pytest.approx(0.060)
    assert cost.samples_within(0.0165) == 4
    assert cost.samples_within(0.045) == 12
    assert cost.samples_within(0.009) == 0


def test_the_saturating_batch_is_the_smallest_that_is_nearly_as_good_as_the_best() -> None:
    assert StepCost.measured({1: 1.0, 2: 1.1, 4: 1.5, 8: 2.9, 16: 6.0}).saturating_samples() == 4
    assert StepCost.measured({1: 1.0, 2: 2.0, 4: 4.0}).saturating_samples() == 1


@given(st.integers(1, 1024))
def test_batch_sizes_rise_to_the_largest_and_leave_no_gap_above_half(largest: int) -> None:
    sizes = batch_sizes(largest)
    assert sizes[0] == 1
    assert sizes[-1] == largest
    assert all(low < high <= 2 * low for low, high in pairwise(sizes))


def test_a_disturbed_measurement_harms_neither_those_before_nor_those_after_it() -> None:
    cost = StepCost.measured({1: 0.9, 2: 0.012, 4: 0.5, 8: 0.020})
    assert [cost.of(size) for size in (1, 2, 4, 8)] == [0.012, 0.012, 0.020, 0.020]
