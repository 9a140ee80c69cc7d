import numpy as np
import pytest

from evaluation.data.images import ClientData
from evaluation.errors import DataError
from evaluation.metrics.disclosure import Disclosure, disclosure, fit_prior, reconstruct, squared_errors
from tests.evaluation.trial import SCHEDULE, T_CUT, released


def measured(clients: tuple[ClientData, ...]) -> Disclosure:
    return disclosure(
        clients[0].train.images,
        released(clients[0]),
        t_cut=T_CUT,
        alpha_bar=float(SCHEDULE.alpha_bar[T_CUT]),
        prior_images=clients[1].train.images,
    )


def test_the_reconstruction_equals_the_wiener_filter_written_out() -> None:
    rng = np.random.default_rng(0)
    prior_images = rng.uniform(-0.3, 0.3, (400, 1, 2, 2)).astype(np.float32)
    x_c, alpha_bar = rng.normal(0.0, 0.2, (7, 1, 2, 2)).astype(np.float32), 0.6
    flat = prior_images.reshape(400, -1).astype(np.float64)
    mean, cov = flat.mean(axis=0), np.cov(flat, rowvar=False)
    gain = np.sqrt(alpha_bar) * cov @ np.linalg.inv(alpha_bar * cov + (1 - alpha_bar) * np.eye(4))
    expected = mean + (x_c.reshape(7, -1) - np.sqrt(alpha_bar) * mean) @ gain.T
    np.testing.assert_allclose(
        reconstruct(x_c, alpha_bar, fit_prior(prior_images)).reshape(7, -1), expected, atol=1e-10
    )


def test_no_other_linear_guess_does_better_on_the_prior_itself() -> None:
    rng = np.random.default_rng(1)
    x_0 = (0.3 * rng.standard_normal((20_000, 3)) @ rng.uniform(-1, 1, (3, 4))).clip(-1, 1)
    x_0 = x_0.reshape(-1, 1, 2, 2).astype(np.float32)
    alpha_bar = 0.5
    x_c = (np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * rng.standard_normal(x_0.shape)).astype(
        np.float32
    )
    flat_0, flat_c = x_0.reshape(-1, 4), np.c_[x_c.reshape(-1, 4), np.ones(len(x_c))]
    fitted = flat_c @ np.linalg.lstsq(flat_c, flat_0, rcond=None)[0]
    ours = squared_errors(x_0, reconstruct(x_c, alpha_bar, fit_prior(x_0))).mean()
    assert ours == pytest.approx(((fitted - flat_0) ** 2).mean(), rel=0.01)


def test_the_release_is_as_far_from_the_image_as_the_schedule_says(clients: tuple[ClientData, ...]) -> None:
    alpha_bar = float(SCHEDULE.alpha_bar[T_CUT])
    power = float((clients[0].train.images.astype(np.float64) ** 2).mean())
    expected = (1 - np.sqrt(alpha_bar)) ** 2 * power + (1 - alpha_bar)
    figure = measured(clients)
    assert figure.released_mse.mean == pytest.approx(expected, rel=0.02)
    assert figure.released_psnr_db is not None
    assert figure.released_psnr_db.mean == pytest.approx(10 * np.log10(4 / expected), abs=0.2)


def test_the_attack_gains_on_the_release_and_on_the_blind_guess(clients: tuple[ClientData, ...]) -> None:
    figure = measured(clients)
    assert figure.reconstruction_mse.mean < figure.released_mse.mean
    assert figure.reconstruction_mse.mean < figure.blind_mse.mean


def test_the_control_that_must_succeed_does_and_the_one_that_must_fail_fails(
    clients: tuple[ClientData, ...],
) -> None:
    figure = measured(clients)
    assert figure.open_mse.high < 1e-12
    assert figure.noise_mse.mean > figure.blind_mse.mean


def test_more_noise_gives_less_away(clients: tuple[ClientData, ...]) -> None:
    rng = np.random.default_rng(2)
    x_0, prior = clients[0].train.images, fit_prior(clients[1].train.images)
    noise = rng.standard_normal(x_0.shape)
    errors = [
        squared_errors(
            x_0, reconstruct((np.sqrt(a) * x_0 + np.sqrt(1 - a) * noise).astype(np.float32), a, prior)
        ).mean()
        for a in (0.99, 0.9, 0.5, 0.1)
    ]
    assert errors == sorted(errors)


def test_an_image_given_away_whole_has_no_psnr(clients: tuple[ClientData, ...]) -> None:
    x_0 = clients[0].train.images
    figure = disclosure(x_0, x_0, t_cut=0, alpha_bar=1.0, prior_images=clients[1].train.images)
    assert figure.released_mse.high == 0.0
    assert figure.released_psnr_db is None


@pytest.mark.parametrize("fault", ["shape", "nan", "alpha"])
def test_senseless_input_is_refused(clients: tuple[ClientData, ...], fault: str) -> None:
    x_0, alpha_bar = clients[0].train.images[:20], 1.5 if fault == "alpha" else 0.5
    x_c = x_0[:10] if fault == "shape" else x_0.copy()
    if fault == "nan":
        x_c[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError):
        disclosure(x_0, x_c, t_cut=1, alpha_bar=alpha_bar, prior_images=x_0)
