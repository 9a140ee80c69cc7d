"""Noise with an address: always the same, never shared, and normal."""

import numpy as np
import pytest
from scipy import stats

from diffusion.errors import DiffusionError
from diffusion.noise import initial_noise, normals, sampling_noise

SHAPE = (3, 5, 7)


def test_noise_depends_on_its_address_and_not_on_the_batch() -> None:
    seeds, samples, steps = np.array([1, 1, 2, 9]), np.array([0, 1, 0, 5]), np.array([10, 10, 10, 3])
    together = sampling_noise(seeds, samples, steps, SHAPE)
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(
        sampling_noise(seeds[order], samples[order], steps[order], SHAPE), together[order]
    )
    for i in range(4):
        alone = sampling_noise(int(seeds[i]), int(samples[i]), int(steps[i]), SHAPE)
        np.testing.assert_array_equal(alone[0], together[i])


def test_addresses_share_no_noise() -> None:
    addresses = [(a, b, c) for a in (0, 1, 2**63 - 1) for b in (0, 1) for c in (0, 1, 2)]
    seeds, samples, steps = (np.array(part) for part in zip(*addresses, strict=True))
    noise = sampling_noise(seeds, samples, steps, (2000,))
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlation).max() < 0.12  # 5 standard deviations of 2000 independent pairs
    assert len({row.tobytes() for row in noise}) == len(addresses)


def test_the_start_of_a_chain_shares_no_noise_with_its_steps() -> None:
    start = initial_noise(7, np.arange(2), 100, SHAPE)
    assert start.shape == (2, *SHAPE)
    assert start.dtype == np.float32
    for t in range(1, 101):
        assert not np.array_equal(start, sampling_noise(7, np.arange(2), t, SHAPE))


def test_the_stream_never_changes() -> None:
    expected = [-0.728194475, -0.764785826, 2.49000144, 0.953988671, 0.453742653]
    np.testing.assert_allclose(sampling_noise(42, 3, 500, (5,))[0], expected, rtol=1e-6)


def test_the_noise_is_standard_normal() -> None:
    values = sampling_noise(5, np.arange(200), 17, (1001,)).ravel().astype(np.float64)
    count = len(values)
    assert abs(values.mean()) < 5 / np.sqrt(count)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / count)
    assert abs(stats.kurtosis(values)) < 5 * np.sqrt(24 / count)
    assert stats.kstest(values, "norm").pvalue > 1e-4
    # Box & Muller's two halves come from the same radius: they must still be uncorrelated, squares included.
    first, second = normals(np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)).reshape(
        2, -1
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(50_000)
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 5 / np.sqrt(50_000)


def test_the_most_extreme_bits_give_finite_normals() -> None:
    bits = np.array([0, 2**64 - 1, 0, 2**64 - 1], dtype=np.uint64)
    assert np.abs(normals(bits)).max() < 8.7


def test_a_negative_address_is_refused() -> None:
    with pytest.raises(DiffusionError, match="0 or more"):
        sampling_noise(-1, 0, 0, SHAPE)
