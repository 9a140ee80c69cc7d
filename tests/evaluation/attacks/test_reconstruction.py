import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion.schedule import NoiseSchedule
from evaluation.attacks.prior import shrunk_prior
from evaluation.attacks.reconstruction import (
    gain_over_blind,
    learned,
    learned_loss,
    left_over,
    one_step,
    recognised,
)
from evaluation.metrics.disclosure import reconstruct, squared_errors
from evaluation.running.fitting import fit

SCHEDULE = NoiseSchedule.cosine(100)
T_CUT = 40
ALPHA_BAR = float(SCHEDULE.alpha_bar[T_CUT])


def two_valued(n: int, seed: int) -> NDArray[np.float32]:
    """Pixels that are −1 or 1, in blocks of four: what a Gaussian describes badly."""
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (n, 1, 2, 2))
    return signs.repeat(2, axis=2).repeat(2, axis=3).astype(np.float32)


def noised(x_0: NDArray[np.float32], a: float, seed: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(x_0.shape).astype(np.float32)
    return np.asarray(a**0.5 * x_0 + (1 - a) ** 0.5 * noise, dtype=np.float32)


class Small(nn.Module):
    """A correction that begins at nothing and sees every block of four pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert len(x) == len(t)
        found: Tensor = self.last(torch.tanh(self.first(x)))
        return found


def test_what_the_linear_guess_leaves_over_is_what_it_misses() -> None:
    rng = np.random.default_rng(0)
    x_0 = (0.1 * rng.standard_normal((4000, 3)) @ rng.standard_normal((3, 16))).reshape(-1, 1, 4, 4)
    prior = shrunk_prior(x_0)
    missed = squared_errors(x_0, reconstruct(noised(x_0.astype(np.float32), 0.5, 1), 0.5, prior)).mean()
    assert left_over(0.5, prior) == pytest.approx(np.sqrt(missed), rel=0.03)
    assert left_over(1.0, prior) == 0.0


def test_the_network_begins_at_the_linear_guess_and_learns_to_do_better() -> None:
    own, attacked = two_valued(200, 0), two_valued(200, 1)
    prior = shrunk_prior(two_valued(200, 2))
    network, x_c = Small(), noised(attacked, ALPHA_BAR, 3)
    linear = reconstruct(x_c, ALPHA_BAR, prior)
    np.testing.assert_allclose(learned(network, x_c, T_CUT, ALPHA_BAR, prior), linear, atol=1e-6)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(own), (32,), generator=generator).numpy()
        return learned_loss(network, own[rows], T_CUT, ALPHA_BAR, prior, generator)

    fit(network, loss_of, updates=150, learning_rate=2e-2, seed=0)
    better = squared_errors(attacked, learned(network, x_c, T_CUT, ALPHA_BAR, prior)).mean()
    assert better < 0.8 * squared_errors(attacked, linear).mean()


def test_at_the_clean_end_the_network_adds_nothing() -> None:
    prior, x_0 = shrunk_prior(two_valued(50, 0)), two_valued(5, 1)
    network = Small()
    nn.init.normal_(network.last.weight)
    np.testing.assert_allclose(learned(network, x_0, 0, 1.0, prior), x_0, atol=1e-6)


def test_one_step_of_the_best_predictor_is_the_best_linear_guess() -> None:
    # For x_0 ~ N(μ, Σ) the mean of all images behind x_c is the Wiener filter.
    rng = np.random.default_rng(0)
    prior = shrunk_prior(
        (0.1 * rng.standard_normal((300, 3)) @ rng.standard_normal((3, 16))).reshape(-1, 1, 4, 4)
    )

    def best(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        assert label is not None
        assert len(x) == len(t) == len(label)
        sigma = ALPHA_BAR * prior.variances + 1 - ALPHA_BAR
        off = x.double().numpy().reshape(len(x), -1) - ALPHA_BAR**0.5 * prior.mean
        noise = (1 - ALPHA_BAR) ** 0.5 * ((off @ prior.directions) / sigma) @ prior.directions.T
        return torch.from_numpy(noise.reshape(x.shape)).float()

    x_c = noised((0.1 * rng.standard_normal((300, 1, 4, 4))).astype(np.float32), ALPHA_BAR, 1)
    found = one_step(best, SCHEDULE, x_c, T_CUT, np.zeros(300, dtype=np.int32))
    np.testing.assert_allclose(found, reconstruct(x_c, ALPHA_BAR, prior), atol=1e-4)


def test_the_gain_is_nothing_for_the_blind_guess_and_one_for_the_image() -> None:
    blind = np.asarray([0.2, 0.4])
    assert gain_over_blind(blind, blind) == 0.0
    assert gain_over_blind(np.zeros(2), blind) == 1.0


def test_images_are_recognised_when_they_are_given_away_and_by_luck_when_not() -> None:
    x_0 = np.random.default_rng(0).uniform(-1, 1, (200, 1, 4, 4))
    assert recognised(x_0 + 0.01, x_0) == 1.0
    assert recognised(np.random.default_rng(1).uniform(-1, 1, x_0.shape), x_0) < 0.05
    assert recognised(np.zeros((200, 1, 4, 4)), np.zeros((200, 1, 4, 4))) == pytest.approx(1 / 200)
