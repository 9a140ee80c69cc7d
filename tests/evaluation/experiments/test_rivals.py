"""Rivals against closed forms: for Gaussian data the best predictor is known, and a chain of it is a straight line.

Every pixel is its own Gaussian N(m, v). With ε*(x, t) = √(1-ᾱ)·(x − √ᾱ·m)/(ᾱ·v + 1 − ᾱ) a DDIM chain maps x_T to a·x_T + b,
so that two runs, from 0 and from 1, give the distribution that it lands on, without sampling.
"""

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion.network import UNet
from diffusion.plan import plan
from diffusion.sampling import run
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from evaluation.errors import DataError
from evaluation.experiments.baselines.double_noising import (
    DoubleNoisingTraining,
    double_noised,
    double_noising_loss,
    patched_start,
)
from evaluation.experiments.baselines.fedavg import FedAvgTraining, weighted_average
from evaluation.experiments.baselines.ideal import Gaussian, hand_off_errors
from evaluation.experiments.baselines.lineup import COLLAFUSE, RIVALS
from evaluation.experiments.baselines.two_chain import TwoChainTraining, generate_by_two_chains, release_bound
from evaluation.metrics.disclosure import fit_prior
from evaluation.running.federation import Federation
from evaluation.running.fitting import new_network, unet_config
from evaluation.running.generation import StepPlan, generate
from evaluation.running.trainings import Budget, LocalTraining

Numbers = NDArray[np.float64]
SCHEDULE = NoiseSchedule.cosine(1000)
MEAN: Numbers = np.linspace(-0.6, 0.6, 64)
VARIANCE: Numbers = np.geomspace(1e-3, 0.3, 64)
BUDGET = Budget(width=8, updates=6, batch_size=8, learning_rate=1e-3)


class Oracle(nn.Module):
    """The best predictor for data N(mean, variance), in the place of a network."""

    def __init__(self, mean: Numbers, variance: Numbers) -> None:
        super().__init__()
        self._mean, self._variance = (torch.from_numpy(part).reshape(1, 1, 8, 8) for part in (mean, variance))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        a = torch.tensor(SCHEDULE.alpha_bar)[t.long()].reshape(-1, 1, 1, 1)
        x64 = x.double()
        noise = (1 - a).sqrt() * (x64 - a.sqrt() * self._mean) / (a * self._variance + 1 - a)
        return noise.to(x.dtype)


def released(cut: Cut) -> tuple[Numbers, Numbers]:
    """Mean and variance of releases."""
    a = float(SCHEDULE.alpha_bar[cut.t_cut])
    return np.sqrt(a) * MEAN, a * VARIANCE + 1 - a


def landed(parts: list[tuple[Oracle, int, int]], evaluations: int) -> tuple[Numbers, Numbers]:
    """Mean and deviation after chains (predictor, start, stop) from N(0, 1), one after the other."""
    x = torch.from_numpy(np.stack([np.zeros((1, 8, 8)), np.ones((1, 8, 8))]))
    for oracle, start, stop in parts:
        x = run(SCHEDULE, oracle, x, plan(SCHEDULE, start, stop, evaluations))
    at_0, at_1 = x.numpy().reshape(2, 64)
    return at_0, np.abs(at_1 - at_0)


def distance_to_truth(parts: list[tuple[Oracle, int, int]], evaluations: int = 400) -> float:
    """Fréchet distance of the two Gaussians, whose covariances commute."""
    mean, deviation = landed(parts, evaluations)
    return float(((mean - MEAN) ** 2).sum() + ((deviation - np.sqrt(VARIANCE)) ** 2).sum())


@pytest.mark.parametrize("cut_ratio", [0.2, 0.5, 0.8])
def test_the_exact_hand_off_and_two_chains_land_on_the_truth_and_double_noising_does_not(
    cut_ratio: float,
) -> None:
    cut = Cut(SCHEDULE, cut_ratio)
    chain, on_releases = Oracle(MEAN, VARIANCE), Oracle(*released(cut))
    t, T = cut.t_cut, SCHEDULE.T
    exact = distance_to_truth([(chain, T, t), (chain, t, 0)])
    two = distance_to_truth([(on_releases, T, 0), (chain, t, 0)])
    literal = distance_to_truth([(on_releases, T, t), (chain, t, 0)])
    patched = distance_to_truth([(on_releases, T, t), (chain, patched_start(cut), 0)])
    assert exact < 1e-3
    assert two < 1e-3
    assert literal > 0.03
    assert patched > 5 * exact
    assert literal > 20 * max(exact, two)


@pytest.mark.parametrize("cut_ratio", [0.3, 0.6])
def test_ideal_errors_are_those_of_chains_run_one_by_one(cut_ratio: float) -> None:
    """Ten evaluations on either side, by the evaluation's own arithmetic and by the chains of this file."""
    cut = Cut(SCHEDULE, cut_ratio)
    chain, on_releases = Oracle(MEAN, VARIANCE), Oracle(*released(cut))
    t, T = cut.t_cut, SCHEDULE.T
    expected = {
        "CollaFuse Edge": [(chain, T, t), (chain, t, 0)],
        "double noising": [(on_releases, T, t), (chain, t, 0)],
        "double noising, patched": [(on_releases, T, t), (chain, patched_start(cut), 0)],
        "PFDM's two chains": [(on_releases, T, 0), (chain, t, 0)],
    }
    errors = hand_off_errors(SCHEDULE, Gaussian(MEAN, VARIANCE), cut_ratio, 10, 10)
    assert set(errors) < {rival.name for rival in (COLLAFUSE, *RIVALS)}
    for name, parts in expected.items():
        assert errors[name] == pytest.approx(distance_to_truth(parts, 10), rel=1e-6), name


def test_a_gaussian_of_images_keeps_their_moments(federation: Federation) -> None:
    """In its own directions the distance to the same data is 0, and the total variance is that of the pixels."""
    images = federation.pooled.images
    fitted = Gaussian.of(fit_prior(images))
    flat = images.reshape(len(images), -1).astype(np.float64)
    assert fitted.distance(fitted) == 0.0
    assert fitted.variance.sum() == pytest.approx(flat.var(axis=0, ddof=1).sum(), rel=1e-4)
    assert (fitted.mean**2).sum() == pytest.approx((flat.mean(axis=0) ** 2).sum())


def test_the_double_noising_loss_is_least_for_what_the_oracle_of_releases_predicts() -> None:
    """Which is why it lands where the releases lie, noised again: at no step of the chain."""
    cut = Cut(SCHEDULE, 0.5)
    mean, variance = released(cut)
    draws = np.random.default_rng(0).standard_normal((20_000, 64))
    x_c = torch.from_numpy((mean + np.sqrt(variance) * draws).reshape(-1, 1, 8, 8)).float()
    label = torch.zeros(len(x_c), dtype=torch.int64)

    def loss(network: nn.Module) -> float:
        drawn = torch.Generator().manual_seed(1)
        return float(double_noising_loss(cast("UNet", network), SCHEDULE, x_c, cut.t_cut, label, drawn))

    best = loss(Oracle(mean, variance))
    assert best < loss(Oracle(MEAN, VARIANCE))
    assert best < loss(Oracle(mean, 1.2 * variance))
    assert best < loss(Oracle(mean + 0.05, variance))


def test_noising_twice_leaves_less_signal_than_the_step_says() -> None:
    t = torch.tensor([700])
    x_c = torch.ones(1, 1, 2, 2)
    signal = double_noised(SCHEDULE, x_c, t, torch.zeros_like(x_c))
    assert float(signal[0, 0, 0, 0]) == pytest.approx(float(SCHEDULE.alpha_bar[700] ** 0.5))


def test_the_patch_starts_the_head_later() -> None:
    assert [patched_start(Cut(SCHEDULE, c)) for c in (0.2, 0.4, 0.5, 1.0)] == [360, 640, 750, 1000]


def test_two_chains_are_run_one_after_the_other() -> None:
    """The function that rivals are made with, with oracles for networks: the images have the data's moments."""
    cut = Cut(SCHEDULE, 0.4)
    shared, head = (cast("UNet", each) for each in (Oracle(*released(cut)), Oracle(MEAN, VARIANCE)))
    made = generate_by_two_chains(
        SCHEDULE,
        shared,
        head,
        cut.t_cut,
        np.zeros(600, dtype=np.int32),
        StepPlan(60, 60, clip=None),
        shape=(1, 8, 8),
        seed=3,
    )
    flat = made.finished.reshape(600, 64)
    assert np.abs(flat.mean(axis=0) - MEAN).max() < 0.15
    np.testing.assert_allclose(flat.std(axis=0), np.sqrt(VARIANCE), rtol=0.1, atol=0.01)
    at_cut = made.at_cut.reshape(600, 64)
    np.testing.assert_allclose(at_cut.std(axis=0), np.sqrt(released(cut)[1]), rtol=0.12)


def test_the_bound_of_the_second_chain_holds_nearly_all_releases() -> None:
    for t_cut in (200, 500, 800):
        alpha_bar = float(SCHEDULE.alpha_bar[t_cut])
        noise = np.random.default_rng(t_cut).standard_normal(100_000)
        inside = np.abs(alpha_bar**0.5 + (1 - alpha_bar) ** 0.5 * noise) <= release_bound(SCHEDULE, t_cut)
        assert inside.mean() > 0.9999


def test_the_head_starts_where_it_is_told(federation: Federation) -> None:
    network = new_network(unet_config(federation.shape, 8, federation.num_classes), 0).eval()
    labels = np.zeros(4, dtype=np.int32)
    for start in (None, 32):
        made = generate(
            federation.schedule,
            network,
            network,
            20,
            labels,
            StepPlan(2, 2, clip=None),
            shape=federation.shape,
            seed=0,
            head_starts_at=start,
        )
        # A fresh network sees no noise, so that its chain only divides by √ᾱ of where it starts.
        alpha_bar = float(federation.schedule.alpha_bar[start or 20])
        np.testing.assert_allclose(made.finished, made.at_cut / np.sqrt(alpha_bar), rtol=1e-5)


def test_federated_averaging_of_one_client_is_training_alone(federation: Federation) -> None:
    client = federation.clients[0]
    alone = Federation(federation.name, (client,), federation.label_names, federation.schedule)
    averaged = FedAvgTraining(BUDGET, seed=4, clients=1, local_updates=4).train(alone, _silent)
    local = LocalTraining(client.name, 1.0, BUDGET, 4).train(alone, _silent)
    for name, value in local.network.state_dict().items():
        torch.testing.assert_close(averaged.network.state_dict()[name], value, rtol=0, atol=0)


def test_federated_averaging_of_several_clients_is_none_of_them(federation: Federation) -> None:
    averaged = FedAvgTraining(BUDGET, seed=4, clients=2, local_updates=4).train(federation, _silent)
    local = LocalTraining(federation.clients[0].name, 1.0, BUDGET, 4).train(federation, _silent)
    name = "last.bias"
    assert not torch.equal(averaged.network.state_dict()[name], local.network.state_dict()[name])


def test_weights_are_averaged_by_the_number_of_images() -> None:
    states = [{"w": torch.tensor([1.0, 8.0])}, {"w": torch.tensor([5.0, 0.0])}]
    assert weighted_average(states, (3, 1))["w"].tolist() == [2.0, 6.0]
    # In float32 a third of the sum would already be off in the last bit.
    same = {"w": torch.tensor([0.1, 3.3333333])}
    assert torch.equal(weighted_average([same, same, same], (1, 1, 1))["w"], same["w"])


def test_rounds_cover_all_updates() -> None:
    training = FedAvgTraining(BUDGET, 0, 2, local_updates=4)
    assert (training.rounds, training.total_updates) == (2, 12)


def test_another_number_of_clients_is_an_error(federation: Federation) -> None:
    with pytest.raises(DataError, match="of 5 clients was asked for: there are 2"):
        FedAvgTraining(BUDGET, seed=0, clients=5, local_updates=4).train(federation, _silent)


def test_rivals_train_on_the_releases_that_this_system_has(federation: Federation) -> None:
    """The two ways to learn from them differ, so the networks do; both are repeatable."""
    made = [
        training(0.4, BUDGET, 1).train(federation, _silent).network.state_dict()["last.bias"]
        for training in (DoubleNoisingTraining, TwoChainTraining, TwoChainTraining)
    ]
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[1], made[2])


def _silent(done: int, of: int, loss: float) -> None:
    del done, of, loss
