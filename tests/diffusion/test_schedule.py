"""Schedules: their shape, their names, and the id by which two parties know they mean the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.errors import DiffusionError
from diffusion.schedule import SCHEDULES, NoiseSchedule

names = st.sampled_from(SCHEDULES)


@settings(max_examples=60, deadline=None)
@given(name=names, T=st.integers(1, 1500))
def test_signal_falls_strictly_from_one(name: str, T: int) -> None:
    schedule = NoiseSchedule.named(name, T)
    assert schedule.alpha_bar.shape == (T + 1,)
    assert schedule.alpha_bar.dtype == np.float64
    assert schedule.alpha_bar[0] == 1.0
    assert np.all(np.diff(schedule.alpha_bar) < 0)
    assert schedule.alpha_bar[-1] > 0
    assert schedule.T == T


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [100, 1000, 4000])
def test_nothing_is_left_of_the_image_at_the_end(name: str, T: int) -> None:
    assert NoiseSchedule.named(name, T).alpha_bar[-1] < 5e-5


def test_the_linear_schedule_is_that_of_the_ddpm_paper() -> None:
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(NoiseSchedule.linear().alpha_bar[1:], expected, rtol=1e-12)


def test_the_cosine_schedule_is_half_spent_near_the_middle() -> None:
    alpha_bar = NoiseSchedule.cosine().alpha_bar
    # cos²(π/4) falls where (t/T + 0.008)/1.008 = 1/2, divided by the start's cos² of almost 1.
    assert alpha_bar[496] == pytest.approx(0.5, abs=1e-3)


def test_another_length_destroys_about_as_much_signal() -> None:
    short, long = NoiseSchedule.linear(200), NoiseSchedule.linear(1000)
    np.testing.assert_allclose(short.log_snr[20:], long.log_snr[100::5], rtol=0.02, atol=0.1)


def test_the_table_cannot_be_written_to() -> None:
    source = np.array([1.0, 0.5, 0.1])
    schedule = NoiseSchedule("own", source)
    with pytest.raises(ValueError, match="read-only"):
        schedule.alpha_bar[1] = 0.9
    source[1] = 0.9
    assert schedule.alpha_bar[1] == 0.5


@pytest.mark.parametrize(
    "table",
    [[1.0], [], [[1.0, 0.5]], [0.9, 0.5], [1.0, 0.5, 0.5], [1.0, 0.5, 0.6], [1.0, 0.0], [1.0, float("nan")]],
)
def test_a_table_that_is_no_schedule_is_refused(table: list[float]) -> None:
    with pytest.raises(DiffusionError):
        NoiseSchedule("own", np.array(table))


@pytest.mark.parametrize("T", [0, -5, 100_001])
def test_an_impossible_length_is_refused(T: int) -> None:
    with pytest.raises(DiffusionError, match="T must lie in"):
        NoiseSchedule.cosine(T)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DiffusionError, match="cosine, linear"):
        NoiseSchedule.named("sigmoid")


def test_the_ids_of_the_usual_schedules_never_change() -> None:
    assert NoiseSchedule.cosine(1000).schedule_id == "661f62a8051c15ec"
    assert NoiseSchedule.linear(1000).schedule_id == "cd0e09d4473a5d09"


def test_the_id_ignores_the_name_and_last_bits_but_not_the_schedule() -> None:
    cosine = NoiseSchedule.cosine(300)
    nudged = cosine.alpha_bar * (1 + 1e-14 * np.arange(301) / 301)
    assert NoiseSchedule("from a bundle", nudged).schedule_id == cosine.schedule_id
    changed = cosine.alpha_bar.copy()
    changed[150] *= 1 + 1e-5
    assert NoiseSchedule("cosine", changed).schedule_id != cosine.schedule_id
    others = {NoiseSchedule.named(name, T).schedule_id for name in SCHEDULES for T in (299, 300, 301)}
    assert len(others) == 6
