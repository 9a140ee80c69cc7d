"""Hand-off refinement: the latents, the loss, and what the loss must lead to where everything is known."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion.schedule import NoiseSchedule
from evaluation.errors import DesignError
from evaluation.experiments.refinement.head import RefinedHead
from evaluation.experiments.refinement.latents import (
    Predict,
    aligned_loss,
    answered,
    denoised_to_the_cut,
    evaluations_left,
)
from evaluation.running.federation import Federation
from evaluation.running.fitting import new_network, unet_config
from evaluation.running.generation import StepPlan
from evaluation.running.networks import NetworkStore
from evaluation.running.trainings import Budget, name_of
from tests.evaluation.tiny import TINY

SCHEDULE = NoiseSchedule.cosine(1000)
T_CUT = 400
HEAD = RefinedHead("client-1", 0.4, Budget.backbone(TINY), Budget.head(TINY), StepPlan(2, 2), 0.25, 0)


def silent(done: int, of: int, loss: float) -> None:
    del done, of, loss


@pytest.mark.parametrize(
    ("evaluations", "reach", "left"),
    [(12, 0.25, (1, 2, 3)), (12, 1.0, (3, 6, 9, 12)), (2, 0.25, (1,)), (32, 0.25, (2, 4, 6, 8))],
)
def test_the_server_starts_at_places_of_its_own_plan(
    evaluations: int, reach: float, left: tuple[int, ...]
) -> None:
    assert evaluations_left(evaluations, reach) == left


def oracle(s: float) -> Predict:
    """The best noise predictor for x_0 ~ N(0, s²)."""
    alpha_bar = torch.from_numpy(SCHEDULE.alpha_bar.copy())

    def predict(x: Tensor, t: Tensor, _label: Tensor) -> Tensor:
        a = alpha_bar[t][:, None, None, None]
        return ((1 - a).sqrt() / (a * s**2 + 1 - a) * x).float()

    return predict


@pytest.mark.parametrize("s", [0.2, 0.8])
def test_the_answer_that_latents_teach_is_shrunk_as_the_closed_form_says(s: float) -> None:
    """Least squares of x_0 on x̂_c gives the right answer times √(r v_c/v_t), from each start."""
    rng = np.random.default_rng(0)
    x_0 = (s * rng.standard_normal((400, 1, 8, 8))).astype(np.float32)
    a_c = SCHEDULE.alpha_bar[T_CUT]
    x_c = (math.sqrt(a_c) * x_0 + math.sqrt(1 - a_c) * rng.standard_normal(x_0.shape)).astype(np.float32)
    variance, predict = s**2, oracle(s)
    server = StepPlan(120, 0, clip=None)
    latents = denoised_to_the_cut(
        SCHEDULE,
        predict,
        x_c,
        np.zeros(len(x_c), dtype=np.int32),
        T_CUT,
        server,
        0.5,
        seed=1,
    ).numpy()
    v_c = a_c * variance + 1 - a_c
    right = math.sqrt(a_c) * variance / v_c
    assert len(latents) == 4
    for left, made in zip(evaluations_left(120, 0.5), latents, strict=True):
        a_t = SCHEDULE.alpha_bar[T_CUT + 5 * left]
        shrunk = math.sqrt(a_t / a_c * v_c / (a_t * variance + 1 - a_t))
        slope = float((made * x_0).sum() / (made**2).sum())
        assert made.var() == pytest.approx(v_c, rel=0.03)  # the server hands over what it should
        assert slope == pytest.approx(right * shrunk, abs=0.04 * right)


def test_the_loss_is_the_error_of_the_answer_weighted_by_the_signal_to_noise_ratio() -> None:
    network = new_network(unet_config((1, 8, 8), 8, 3), 0).eval()
    generator = torch.Generator().manual_seed(0)
    x_0 = 0.1 * torch.randn((6, 1, 8, 8), generator=generator)
    x_c = 0.1 * torch.randn((6, 1, 8, 8), generator=generator)
    labels = np.array([0, 1, 2, 0, 1, 2], dtype=np.int32)
    a_c = float(SCHEDULE.alpha_bar[T_CUT])
    with torch.no_grad():
        loss = aligned_loss(network, SCHEDULE, x_c, x_0, torch.from_numpy(labels).long(), T_CUT)
    answer = answered(network, SCHEDULE, x_c, labels, T_CUT)
    assert np.abs(answer).max() < 1  # nothing was clipped
    assert loss.item() == pytest.approx(
        a_c / (1 - a_c) * float(((answer - x_0.numpy()) ** 2).mean()), rel=1e-4
    )


def test_a_release_that_the_server_did_not_touch_has_the_plain_loss() -> None:
    """Where x̂_c is the release itself, the implied noise is the noise."""
    generator = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn((6, 1, 4, 4), generator=generator) for _ in range(2))
    a_c = float(SCHEDULE.alpha_bar[T_CUT])
    x_c = math.sqrt(a_c) * x_0 + math.sqrt(1 - a_c) * noise
    label = torch.zeros(6, dtype=torch.int64)
    exact = aligned_loss(lambda *_: noise, SCHEDULE, x_c, x_0, label, T_CUT)
    nothing = aligned_loss(lambda *_: torch.zeros_like(noise), SCHEDULE, x_c, x_0, label, T_CUT)
    assert exact.item() < 1e-10
    assert nothing.item() == pytest.approx(noise.square().mean().item(), rel=1e-5)


def test_latents_are_made_of_the_release_and_come_again(federation: Federation) -> None:
    backbone, _ = (training.train(federation, silent).network for training in HEAD.grows_from())
    data = federation.clients[0].train.take(np.arange(10))
    made = replace(HEAD, reach=1.0).latents(backbone, federation, data)
    assert made.shape == (2, 10, *federation.shape)
    assert torch.equal(made, replace(HEAD, reach=1.0).latents(backbone, federation, data))
    assert not torch.equal(made[0], replace(HEAD, reach=1.0, seed=1).latents(backbone, federation, data)[0])


def test_a_head_grown_from_kept_networks_is_the_one_trained_from_nothing(
    federation: Federation, tmp_path: Path
) -> None:
    store = NetworkStore(tmp_path, federation)
    backbone, head = (store.trained(training).network for training in HEAD.grows_from())
    before = {name: value.clone() for name, value in head.state_dict().items()}
    kept = store.kept(HEAD, lambda: HEAD.grown(backbone, head, federation, silent))
    alone = HEAD.train(federation, silent)

    assert store.has(HEAD)
    for name, value in alone.network.state_dict().items():
        assert torch.equal(value, kept.network.state_dict()[name])
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in before.items())
    assert any(not torch.equal(value, kept.network.state_dict()[name]) for name, value in before.items())


def test_refinement_and_control_are_trained_as_long_and_are_not_the_same(federation: Federation) -> None:
    control = replace(HEAD, reach=0.0)
    assert control.total_updates == HEAD.total_updates == 1
    assert name_of(control, federation) != name_of(HEAD, federation)
    with pytest.raises(DesignError, match="reach"):
        replace(HEAD, reach=1.2)
