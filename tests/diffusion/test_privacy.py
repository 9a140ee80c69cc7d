"""Releases and their price: determinism, secrecy, clipping, refusals, and the exact ε."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffusion.arrays import Float32
from diffusion.errors import DiffusionError, ReleaseRefused
from diffusion.privacy import (
    Release,
    check_release,
    clip,
    epsilon,
    epsilon_of_mu,
    gdp_mu,
    image_digest,
    norm_bound,
    release,
    release_noise,
    sigma,
)
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut

SECRET = bytes(range(32))
CUT = Cut(NoiseSchedule.linear(), 0.3)


def image(seed: int = 0, shape: tuple[int, ...] = (1, 8, 8)) -> Float32:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def noise_of(made: Release, x0: Float32, cut: Cut = CUT) -> Float32:
    """The ε_c inside a release, which only the holder of the image can compute."""
    a = cut.schedule.alpha_bar[cut.t_cut]
    return np.asarray((made.x_c - np.sqrt(a) * x0) / np.sqrt(1 - a), dtype=np.float32)


def test_repeating_a_release_discloses_nothing_new() -> None:
    first, again = (release(CUT, image(), SECRET, 0, label=3) for _ in range(2))
    assert first.x_c.tobytes() == again.x_c.tobytes()
    assert (first.digest, first.t_cut, first.release, first.label) == (again.digest, 300, 0, 3)
    assert first.schedule_id == CUT.schedule.schedule_id
    assert first.x_c.dtype == np.float32


def test_a_release_is_the_image_and_standard_normal_noise() -> None:
    x0 = image(shape=(3, 64, 64))
    noise = noise_of(release(CUT, x0, SECRET), x0)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(noise.ravel(), x0.ravel())[0, 1]) < 5 / math.sqrt(noise.size)


def test_noise_is_shared_by_no_two_releases() -> None:
    """Two releases with one noise would be two equations for one image."""
    x0 = image()
    other_schedule = Cut(NoiseSchedule.cosine(), 0.3)
    noises = [
        noise_of(release(CUT, x0, SECRET), x0),
        noise_of(release(CUT, x0, SECRET[::-1]), x0),
        noise_of(release(CUT, x0, SECRET, 1), x0),
        noise_of(release(CUT, image(1), SECRET), image(1)),
        noise_of(release(Cut(CUT.schedule, 0.4), x0, SECRET), x0, Cut(CUT.schedule, 0.4)),
        noise_of(release(other_schedule, x0, SECRET), x0, other_schedule),
        noise_of(release(CUT, x0, SECRET, clip_norm=2.0), clip(x0, 2.0)),
    ]
    correlation = np.corrcoef([noise.ravel() for noise in noises]) - np.eye(len(noises))
    assert np.abs(correlation).max() < 5 / math.sqrt(64)


def test_a_clip_norm_changes_the_release_but_not_the_images_name() -> None:
    x0 = image()
    bare, clipped = release(CUT, x0, SECRET), release(CUT, x0, SECRET, clip_norm=2.0)
    assert bare.digest == clipped.digest == image_digest(x0)
    assert not np.array_equal(bare.x_c, clipped.x_c)


def test_the_stream_never_changes() -> None:
    noise = release_noise(SECRET, "ab" * 32, "0123456789abcdef", 300, 0, shape=(5,))
    np.testing.assert_allclose(
        noise, [-0.317748874, 0.350434661, -1.66700435, -0.225213185, -1.3033762], rtol=1e-6
    )


def by_hand() -> Release:
    return Release(image(), "id", 300, 0, "digest", None, None, 8.0, 1.0, b"x" * 16)


def without_its_constructor() -> Release:
    made = object.__new__(Release)
    for name, value in vars(release(CUT, image(), SECRET)).items():
        object.__setattr__(made, name, image() if name == "x_c" else value)
    return made


def with_the_clean_image() -> Release:
    changes: dict[str, Any] = {"x_c": image()}
    return dataclasses.replace(release(CUT, image(), SECRET), **changes)


def at_a_lower_price() -> Release:
    return dataclasses.replace(release(CUT, image(), SECRET), mu=0.1)


def overwritten() -> Release:
    made = release(CUT, image(), SECRET)
    made.x_c.flags.writeable = True
    made.x_c[...] = image()
    return made


def copied_and_changed() -> Release:
    made = copy.copy(release(CUT, image(), SECRET))
    object.__setattr__(made, "x_c", image())
    return made


def of_a_subclass() -> Release:
    class Lenient(Release):
        def __post_init__(self) -> None:
            pass

    return Lenient(**vars(release(CUT, image(), SECRET)))


@pytest.mark.parametrize(
    "forge",
    [
        by_hand,
        without_its_constructor,
        with_the_clean_image,
        at_a_lower_price,
        overwritten,
        copied_and_changed,
        of_a_subclass,
    ],
)
def test_only_release_makes_a_release(forge: Callable[[], Release]) -> None:
    with pytest.raises(ReleaseRefused, match="release alone"):
        check_release(forge())


def test_a_release_stays_one_in_a_copy_and_cannot_be_changed_in_passing() -> None:
    made = release(CUT, image(), SECRET)
    check_release(copy.deepcopy(made))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.x_c = image()  # type: ignore[misc]  # what the test is about
    with pytest.raises(ValueError, match="read-only"):
        made.x_c[0, 0, 0] = 0.0
    with pytest.raises(ReleaseRefused, match="release alone"):
        check_release(image())


def test_a_release_says_what_it_costs() -> None:
    made = release(CUT, image(), SECRET, clip_norm=2.0)
    assert (made.clip_norm, made.norm_bound) == (2.0, 2.0)
    assert made.mu == gdp_mu(2.0, CUT.t_cut, CUT.schedule)
    bare = release(CUT, image(), SECRET)
    assert (bare.clip_norm, bare.norm_bound) == (None, norm_bound(None, image().shape))


@pytest.mark.parametrize(
    "x0",
    [
        np.full((1, 4, 4), np.nan, dtype=np.float32),
        np.full((1, 4, 4), np.inf),
        np.zeros((4, 4)),
        np.zeros((2, 1, 4, 4)),
        np.zeros((1, 0, 4)),
        np.zeros((1, 4, 4), dtype=np.uint8),
        np.float64(0.5),
    ],
    ids=["nan", "infinite", "rank 2", "rank 4", "empty", "integers", "scalar"],
)
def test_a_malformed_image_is_not_released(x0: Float32) -> None:
    with pytest.raises(ReleaseRefused):
        release(CUT, x0, SECRET)


@pytest.mark.parametrize(("c", "why"), [(0.0, "as it is"), (1.0, "no step to learn")])
def test_a_cut_without_noise_or_without_use_is_refused(c: float, why: str) -> None:
    with pytest.raises(ReleaseRefused, match=why):
        release(Cut(CUT.schedule, c), image(), SECRET)


def test_a_short_secret_and_a_negative_index_are_refused() -> None:
    with pytest.raises(DiffusionError, match="16 random bytes"):
        release(CUT, image(), b"short")
    with pytest.raises(ReleaseRefused, match="count from 0"):
        release(CUT, image(), SECRET, -1)


@settings(max_examples=60, deadline=None)
@given(norm=st.floats(1e-3, 100), scale=st.floats(0.01, 50), seed=st.integers(0, 9))
def test_clipping_bounds_values_and_norms(norm: float, scale: float, seed: int) -> None:
    images = np.random.default_rng(seed).normal(scale=scale, size=(3, 2, 4, 4)).astype(np.float32)
    clipped = clip(images, norm)
    assert clipped.dtype == np.float32
    assert np.abs(clipped).max() <= 1
    norms = np.sqrt((clipped.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
    assert np.all(norms <= norm)
    inside = np.sqrt((np.clip(images, -1, 1).astype(np.float64) ** 2).sum(axis=(1, 2, 3))) <= norm
    np.testing.assert_array_equal(clipped[inside], np.clip(images, -1, 1)[inside])


def test_an_images_name_follows_its_values() -> None:
    x0 = image()
    assert image_digest(x0) == image_digest(x0.astype(np.float64)) == image_digest(np.asfortranarray(x0))
    assert image_digest(np.zeros((1, 2, 2))) == image_digest(-np.zeros((1, 2, 2)))
    changed = x0.copy()
    changed[0, 3, 3] += 1e-6
    names = {
        image_digest(x0),
        image_digest(changed),
        image_digest(x0.reshape(1, 4, 16)),
        image_digest(x0[:, ::-1]),
    }
    assert len(names) == 4


def test_the_check_value_of_the_ledger() -> None:
    assert epsilon(10.0, 690, NoiseSchedule.linear(), 1e-5) == pytest.approx(8.77, abs=0.005)


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_epsilon_solves_the_exact_equation(mu: float, delta: float) -> None:
    found = epsilon_of_mu(mu, delta)
    exact = stats.norm.cdf(-found / mu + mu / 2) - math.exp(found) * stats.norm.cdf(-found / mu - mu / 2)
    assert found > 0
    assert exact == pytest.approx(delta, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(mu=st.floats(1e-3, 1e4), more=st.floats(1.001, 3), delta=st.floats(1e-12, 0.1))
def test_more_signal_costs_more_and_never_overflows(mu: float, more: float, delta: float) -> None:
    low, high = epsilon_of_mu(mu, delta), epsilon_of_mu(mu * more, delta)
    assert 0 <= low <= high < math.inf
    # Far out the Gaussian tail alone decides: ε ≈ μ²/2 + μ·z_δ bounds the exact value from above.
    assert low <= mu**2 / 2 + mu * stats.norm.isf(delta) + 1e-9


def test_small_cuts_promise_nothing_and_the_ledger_says_so() -> None:
    schedule = NoiseSchedule.cosine()
    assert epsilon(norm_bound(None, (3, 64, 64)), 200, schedule, 1e-5) == pytest.approx(2.2e5, rel=0.01)
    assert epsilon(1.0, 0, schedule, 1e-5) == math.inf


def test_releases_compose() -> None:
    schedule = NoiseSchedule.linear()
    assert gdp_mu(2.0, 500, schedule, 4) == pytest.approx(2 * gdp_mu(2.0, 500, schedule))
    assert gdp_mu(2.0, 500, schedule, 0) == 0
    assert epsilon(2.0, 500, schedule, 1e-5, releases=0) == 0
    spent = [epsilon(2.0, 500, schedule, 1e-5, releases=k) for k in (1, 2, 8, 64)]
    assert spent == sorted(set(spent))


def test_sigma_is_the_noise_in_units_of_the_image() -> None:
    assert sigma(Cut(NoiseSchedule.linear(), 0.0)) == 0
    a = CUT.schedule.alpha_bar[300]
    assert sigma(CUT) == pytest.approx(math.sqrt((1 - a) / a))
    assert gdp_mu(3.0, 300, CUT.schedule) == pytest.approx(6.0 / sigma(CUT))


def test_the_bound_never_exceeds_that_of_the_values() -> None:
    assert norm_bound(None, (1, 8, 8)) == 8
    assert norm_bound(5.0, (1, 8, 8)) == 5
    assert norm_bound(50.0, (1, 8, 8)) == 8


@pytest.mark.parametrize(
    ("bound", "t_cut", "delta", "releases"),
    [
        (0.0, 5, 1e-5, 1),
        (1.0, -1, 1e-5, 1),
        (1.0, 2000, 1e-5, 1),
        (1.0, 5, 0.0, 1),
        (1.0, 5, 1.0, 1),
        (1.0, 5, 0.1, -1),
    ],
)
def test_a_ledger_without_sense_is_refused(bound: float, t_cut: int, delta: float, releases: int) -> None:
    with pytest.raises(DiffusionError):
        epsilon(bound, t_cut, NoiseSchedule.linear(), delta, releases)
