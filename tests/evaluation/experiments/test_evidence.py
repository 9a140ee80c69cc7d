"""What averaging makes of releases and of pairs, against closed forms."""

import numpy as np
import pytest
from numpy.typing import NDArray

from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from evaluation.attacks.averaging import Evidence, best_linear, mean_errors, of_release, together
from evaluation.experiments.releases.pairs_evidence import ROUNDING_VARIANCE, of_pairs
from evaluation.experiments.releases.upload import arrived_pairs, pair_bodies, pairs_of_epoch
from evaluation.metrics.disclosure import fit_prior, reconstruct
from evaluation.running.federation import Federation

SCHEDULE = NoiseSchedule.cosine(50)
CUT = Cut(SCHEDULE, 0.4)
ALPHA_BAR = float(SCHEDULE.alpha_bar[CUT.t_cut])


def images(count: int = 400) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1, 1, (count, 1, 4, 4)).astype(np.float32)


def releases(x_0: NDArray[np.float32], count: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return [CUT.release(x_0, rng.standard_normal(x_0.shape).astype(np.float32)) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 16])
def test_the_mean_of_k_releases_misses_an_image_by_sigma_squared_over_k(count: int) -> None:
    x_0 = images()
    evidence = together(of_release(x_c, ALPHA_BAR) for x_c in releases(x_0, count))
    expected = (1 - ALPHA_BAR) / ALPHA_BAR / count

    np.testing.assert_allclose(evidence.variance, expected, rtol=1e-12)
    assert mean_errors(evidence, x_0).mean() == pytest.approx(expected, rel=4 * np.sqrt(2 / x_0.size), abs=0)


def test_unlike_evidence_is_weighted_by_what_it_is_worth() -> None:
    weak, strong = (
        Evidence(np.full((1, 1, 1, 1), 6.0), np.array([3.0])),
        Evidence(np.zeros((1, 1, 1, 1)), np.ones(1)),
    )
    both = weak.joined(strong)
    assert both.mean.item() == pytest.approx(1.5)
    assert both.variance.item() == pytest.approx(0.75)


def test_one_release_is_denoised_as_the_disclosure_metric_denoises_it() -> None:
    x_0 = images()
    x_c, prior = releases(x_0, 1)[0], fit_prior(images(300) / np.float32(2))
    np.testing.assert_allclose(
        best_linear(of_release(x_c, ALPHA_BAR), prior), reconstruct(x_c, ALPHA_BAR, prior), atol=1e-6
    )


def test_the_best_linear_guess_errs_as_the_wiener_filter_must() -> None:
    """For x_0 ~ N(0, s²) the error of the best guess from K releases is s²·v/(s² + v), v = σ²/K."""
    x_0 = (0.2 * np.random.default_rng(3).standard_normal((4000, 1, 2, 2))).astype(np.float32)
    evidence = together(of_release(x_c, ALPHA_BAR) for x_c in releases(x_0, 4))
    errors = ((best_linear(evidence, fit_prior(x_0)) - x_0) ** 2).mean()
    v = (1 - ALPHA_BAR) / ALPHA_BAR / 4
    assert errors == pytest.approx(0.04 * v / (0.04 + v), rel=0.05)


def test_rounding_to_float16_adds_the_variance_that_is_stated() -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    errors = values - values.astype(np.float16).astype(np.float64)
    assert errors.var() == pytest.approx(ROUNDING_VARIANCE, rel=0.03)


def test_a_pair_gives_away_its_release_and_is_told_by_how_much_rounding_spoils_it(
    federation: Federation,
) -> None:
    client = federation.clients[0]
    made = federation.releases(client, 0.4, seed=0)
    x_c = np.stack([one.x_c for one in made])
    pairs = pairs_of_epoch(federation, made, CUT.t_cut, np.random.default_rng(2))
    exact = of_pairs(pairs, SCHEDULE, CUT.t_cut)
    read = of_pairs(arrived_pairs(pair_bodies(pairs, CUT, 0, "float16")), SCHEDULE, CUT.t_cut)
    from_release = of_release(x_c, ALPHA_BAR)
    early = pairs.t < 45

    np.testing.assert_allclose(exact.mean[early], from_release.mean[early], atol=1e-4)
    spoiled = ((read.mean - from_release.mean) ** 2).mean(axis=(1, 2, 3))
    stated = read.variance - from_release.variance
    assert (spoiled[early] / stated[early]).mean() == pytest.approx(1, rel=0.15)
    assert (spoiled[~early] / stated[~early]).mean() == pytest.approx(1, rel=0.3)
