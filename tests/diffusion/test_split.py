"""The cut: the exact hand-off, its weight, and both ends of the range."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.errors import DiffusionError
from diffusion.schedule import SCHEDULES, NoiseSchedule
from diffusion.split import Cut, pair, pair_weight, ratio
from tests.diffusion.oracle import example

cut_ratios = st.floats(0, 1)


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(SCHEDULES), T=st.integers(2, 400), c=cut_ratios, data=st.data())
def test_a_pair_of_a_release_lies_on_the_chain_exactly(
    name: str, T: int, c: float, data: st.DataObject
) -> None:
    cut = Cut(NoiseSchedule.named(name, T), c)
    if cut.t_cut == T:
        return
    t = data.draw(st.integers(cut.t_cut + 1, T))
    # One column per source, image, ε_c and ε_s: what arrives at t is the factor of each.
    image, noise_c, noise_s = np.eye(3)
    factors = cut.pair(cut.release(image, noise_c)[None], np.array([t]), noise_s[None])[0]
    alpha_bar = cut.schedule.alpha_bar[t]
    assert factors[0] == pytest.approx(np.sqrt(alpha_bar), rel=1e-12)
    assert factors[1] ** 2 + factors[2] ** 2 == pytest.approx(1 - alpha_bar, rel=1e-9)
    weight = cut.weight(np.array([t]))[0]
    assert weight == pytest.approx(factors[2] ** 2 / (1 - alpha_bar), rel=1e-9)
    assert 0 < weight <= 1 + 1e-12


@settings(max_examples=60, deadline=None)
@given(T=st.integers(1, 2000), c=cut_ratios)
def test_the_cut_ratio_is_the_clients_share(T: int, c: float) -> None:
    cut = Cut(NoiseSchedule.linear(T), c)
    assert 0 <= cut.t_cut <= T
    assert abs(cut.t_cut - c * T) <= 0.5


def test_both_ends_of_the_range() -> None:
    schedule = NoiseSchedule.cosine(100)
    assert Cut(schedule, 0.0).t_cut == 0
    assert Cut(schedule, 1.0).t_cut == 100
    x0, noise = np.full((2, 1, 2, 2), 0.5), np.full((2, 1, 2, 2), 3.0)
    np.testing.assert_array_equal(Cut(schedule, 0.0).release(x0, noise), x0)
    np.testing.assert_allclose(Cut(schedule, 1.0).release(x0, noise), noise, atol=1e-3)
    # Nobody has added noise before a cut at 0: the pair is the ordinary x_t and the loss the ordinary loss.
    np.testing.assert_allclose(Cut(schedule, 0.0).weight(np.arange(1, 101)), 1.0)


@pytest.mark.parametrize("c", [-0.01, 1.01, float("nan")])
def test_a_cut_outside_the_chain_is_refused(c: float) -> None:
    with pytest.raises(DiffusionError, match="choose one in"):
        Cut(NoiseSchedule.linear(), c)


@pytest.mark.parametrize("t", [[50], [60, 20], [101], [0]])
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_step_the_server_does_not_own_is_refused(t: list[int], kind: Any) -> None:
    cut = Cut(NoiseSchedule.linear(100), 0.5)
    with pytest.raises(DiffusionError, match="above the cut"):
        cut.weight(kind(t))


def test_a_batch_mixes_cuts() -> None:
    schedule = NoiseSchedule.cosine(100)
    generator = np.random.default_rng(0)
    x_c, noise = generator.normal(size=(2, 3, 1, 4, 4))
    cuts, t = np.array([10, 40, 70]), np.array([90, 41, 75])
    mixed = pair(schedule, x_c, cuts, t, noise)
    weights = pair_weight(schedule, cuts, t)
    for i, c in enumerate((0.1, 0.4, 0.7)):
        alone = Cut(schedule, c)
        np.testing.assert_array_equal(mixed[i], alone.pair(x_c[i : i + 1], t[i : i + 1], noise[i : i + 1])[0])
        assert weights[i] == alone.weight(t[i : i + 1])[0]


def test_arrays_and_tensors_agree() -> None:
    schedule = NoiseSchedule.cosine(100)
    generator = np.random.default_rng(1)
    x_c, noise = generator.normal(size=(2, 3, 1, 4, 4)).astype(np.float32)
    cuts, t = np.array([10, 40, 70]), np.array([90, 41, 75])
    array = pair(schedule, x_c, cuts, t, noise)
    tensor = pair(schedule, torch.tensor(x_c), torch.tensor(cuts), torch.tensor(t), torch.tensor(noise))
    assert array.dtype == np.float32
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), array, atol=1e-6)
    weight = pair_weight(schedule, torch.tensor(cuts), torch.tensor(t))
    assert weight.dtype == torch.float64
    np.testing.assert_allclose(weight.numpy(), pair_weight(schedule, cuts, t), rtol=1e-12)
    one_cut = ratio(schedule, 10, torch.tensor([90, 41]))
    np.testing.assert_allclose(one_cut.numpy(), ratio(schedule, 10, np.array([90, 41])), rtol=1e-12)
    half = Cut(schedule, 0.5)
    released = half.release(torch.tensor(x_c), torch.tensor(noise))
    np.testing.assert_allclose(released.numpy(), half.release(x_c, noise), atol=1e-6)


@pytest.mark.parametrize("c", [0.0, 0.1, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_best_predictor_is_that_of_the_whole_chain_whatever_the_cut(name: str, c: float) -> None:
    """The minimiser of ‖√w·M·x_t − ε_s‖², in closed form from the moments of (x_t, ε_s), is the oracle's gain."""
    cut, target = Cut(NoiseSchedule.named(name, 200), c), example()
    identity, zero = np.eye(4), np.zeros((4, 4))
    for t in {cut.t_cut + 1, (cut.t_cut + 200) // 2, 200}:
        steps = np.full(4, t)
        by_image = cut.pair(cut.release(identity, zero), steps, zero)
        by_noise_c = cut.pair(cut.release(zero, identity), steps, zero)
        by_noise_s = cut.pair(zero, steps, identity)
        covariance = (
            by_image @ target.covariance @ by_image + by_noise_c @ by_noise_c + by_noise_s @ by_noise_s
        )
        best = by_noise_s @ np.linalg.inv(covariance) / np.sqrt(cut.weight(np.array([t]))[0])
        np.testing.assert_allclose(best, target.gain(float(cut.schedule.alpha_bar[t])), rtol=1e-8, atol=1e-10)
