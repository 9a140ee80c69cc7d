import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from evaluation.attacks.linkage import by_likelihood, by_pixels, by_wiener, linkage
from evaluation.attacks.prior import log_density, shrunk_prior
from evaluation.errors import DataError


def images(n: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((4, 16)) * np.asarray([[0.5], [0.3], [0.1], [0.05]])
    drawn = np.clip(rng.standard_normal((n, 4)) @ mixing, -1, 1)
    return np.asarray(drawn.reshape(n, 1, 4, 4), dtype=np.float32)


def releases(x_0: NDArray[np.float32], a: float, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(x_0.shape).astype(np.float32)
    return np.asarray(a**0.5 * x_0 + (1 - a) ** 0.5 * noise, dtype=np.float32)


def test_the_likelihood_ratio_is_that_of_the_gaussians_written_out() -> None:
    prior, a = shrunk_prior(images(200)), 0.5
    first, second = (releases(images(3, 1), a, seed) for seed in (1, 2))
    sigma = (prior.directions * prior.variances) @ prior.directions.T
    one, d = a * sigma + (1 - a) * np.eye(16), 16
    together = np.block([[one, a * sigma], [a * sigma, one]])
    mean = a**0.5 * prior.mean
    apart = multivariate_normal(mean, one)
    joint = multivariate_normal(np.r_[mean, mean], together)
    found = by_likelihood(first, second, a, prior)
    for i in range(3):
        for j in range(3):
            u, v = first[i].reshape(d), second[j].reshape(d)
            expected = joint.logpdf(np.r_[u, v]) - apart.logpdf(u) - apart.logpdf(v)
            assert found[i, j] == pytest.approx(expected, abs=1e-4)


def test_the_density_is_that_of_an_independent_library() -> None:
    prior, x = shrunk_prior(images(100)), images(5, 3)
    sigma = (prior.directions * prior.variances) @ prior.directions.T
    expected = multivariate_normal(prior.mean, sigma).logpdf(x.reshape(5, 16))
    np.testing.assert_allclose(log_density(x, prior), expected, rtol=1e-6)


def test_clean_images_are_linked_and_noise_is_not() -> None:
    x_0, prior = images(150, 1), shrunk_prior(images(300))
    clean = [by_pixels(x_0, x_0), by_wiener(x_0, x_0, 1.0, prior), by_likelihood(x_0, x_0, 1.0, prior)]
    for similarity in clean:
        found = linkage(similarity)
        assert found.rank_1 == 1.0
        assert found.auc > 0.999
    a, b = (releases(x_0, 0.0, seed) for seed in (3, 4))
    noise = linkage(by_pixels(a, b))
    assert noise.auc == pytest.approx(0.5, abs=0.1)
    assert noise.rank_1 < 0.05


def test_what_the_attacker_knows_of_images_helps_it_to_link() -> None:
    x_0, prior, a = images(300, 1), shrunk_prior(images(2000)), 0.5
    first, second = releases(x_0, a, 1), releases(x_0, a, 2)
    pixels, wiener, ratio = (
        linkage(similarity).auc
        for similarity in (
            by_pixels(first, second),
            by_wiener(first, second, a, prior),
            by_likelihood(first, second, a, prior),
        )
    )
    assert pixels < wiener < ratio


def test_a_tie_counts_as_its_share() -> None:
    assert linkage(np.zeros((4, 4))).rank_1 == pytest.approx(0.25)
    assert linkage(np.zeros((4, 4))).auc == pytest.approx(0.5)


def test_what_is_no_square_is_refused() -> None:
    with pytest.raises(DataError, match="links nothing"):
        linkage(np.zeros((3, 4)))


def test_shrinking_keeps_what_few_images_do_not_show() -> None:
    # Five images span four directions; the plain covariance would call all others impossible.
    prior = shrunk_prior(images(5))
    assert prior.variances.min() > 1e-3 * prior.variances.mean()
    with pytest.raises(DataError, match="no prior"):
        shrunk_prior(images(1))
