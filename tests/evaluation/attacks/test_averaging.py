import numpy as np
import pytest

from diffusion.schedule import NoiseSchedule
from evaluation.attacks.averaging import best_linear, closed_form_psnr_db, mean_errors, of_mean, psnr_db
from evaluation.attacks.prior import shrunk_prior
from evaluation.metrics.disclosure import squared_errors

SCHEDULE = NoiseSchedule.cosine(1000)


@pytest.mark.parametrize(
    ("t_cut", "count", "decibels"),
    [(200, 1, 16), (200, 450, 42), (400, 450, 35), (600, 10, 13), (800, 1, -4)],
)
def test_the_closed_form_gives_the_published_figures(t_cut: int, count: int, decibels: int) -> None:
    assert round(closed_form_psnr_db(float(SCHEDULE.alpha_bar[t_cut]), count)) == decibels


def test_the_plain_average_comes_to_the_closed_form() -> None:
    rng, a = np.random.default_rng(0), 0.3
    x_0 = rng.uniform(-1, 1, (40, 1, 8, 8))
    x_c = (a**0.5 * x_0 + (1 - a) ** 0.5 * rng.standard_normal((64, *x_0.shape))).astype(np.float32)
    for count in (1, 4, 64):
        found = psnr_db(float(mean_errors(of_mean(x_c[:count], a), x_0).mean()))
        assert found == pytest.approx(closed_form_psnr_db(a, count), abs=0.4)


def test_the_prior_helps_one_release_and_does_not_harm_many() -> None:
    rng, a = np.random.default_rng(2), 0.2
    directions = rng.standard_normal((3, 16))
    x_0 = np.clip(0.2 * rng.standard_normal((500, 3)) @ directions, -1, 1).reshape(-1, 1, 4, 4)
    prior = shrunk_prior(x_0[:400].astype(np.float32))
    x_c = a**0.5 * x_0[400:] + (1 - a) ** 0.5 * rng.standard_normal((64, 100, 1, 4, 4))
    for count in (1, 64):
        evidence = of_mean(x_c[:count].astype(np.float32), a)
        plain = mean_errors(evidence, x_0[400:]).mean()
        assert squared_errors(x_0[400:], best_linear(evidence, prior)).mean() < plain
