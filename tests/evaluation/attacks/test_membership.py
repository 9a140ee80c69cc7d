import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.network import UNet, UNetConfig
from diffusion.sampling import run
from diffusion.schedule import NoiseSchedule
from evaluation.attacks.membership import (
    by_loss,
    by_steps,
    by_store,
    ddim,
    loss_steps,
    predictor,
    secmi_path,
    standardised,
    step_errors,
)
from evaluation.attacks.roc import delong

SCHEDULE = NoiseSchedule.cosine(100)


def images(n: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 1, 8, 8)).astype(np.float32)


class Memory:
    """The best noise predictor of a chain whose data are these images and no others: a model that has learned by heart."""

    def __init__(self, x_0: NDArray[np.float32]) -> None:
        self._x_0 = torch.from_numpy(x_0).double().flatten(1)

    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        a = float(SCHEDULE.alpha_bar[t])
        x = x_t.double().flatten(1)
        weights = torch.softmax(-(torch.cdist(x, a**0.5 * self._x_0) ** 2) / (2 * (1 - a)), dim=1)
        noise: Tensor = ((x - a**0.5 * weights @ self._x_0) / (1 - a) ** 0.5).float().reshape(x_t.shape)
        return noise


def gaussian(x_t: Tensor, t: int) -> Tensor:
    """The best predictor for x_0 ~ N(0, I/4), which knows no single image."""
    a = float(SCHEDULE.alpha_bar[t])
    noise: Tensor = x_t * ((1 - a) ** 0.5 / (a / 4 + 1 - a))
    return noise


MEMBERS, OTHERS = images(40, 1), images(60, 2)
EVERYBODY = np.concatenate((MEMBERS, OTHERS))


def area(scores: NDArray[np.float64]) -> float:
    return delong(scores[: len(MEMBERS)], scores[len(MEMBERS) :])[0]


@pytest.mark.parametrize(("t_cut", "least"), [(0, 0.95), (20, 0.75)])
def test_a_model_that_knows_its_images_by_heart_gives_them_away(t_cut: int, least: float) -> None:
    memory = Memory(MEMBERS)
    found = (
        area(by_loss(memory, SCHEDULE, EVERYBODY, loss_steps(t_cut, 100))),
        area(by_steps(memory, SCHEDULE, EVERYBODY, secmi_path(t_cut, 100))),
    )
    assert min(found) > least, found


def test_a_model_that_knows_no_single_image_gives_none_away() -> None:
    # 40 against 60 by chance: ½ ± 0.06
    assert area(by_loss(gaussian, SCHEDULE, EVERYBODY, loss_steps(20, 100))) == pytest.approx(0.5, abs=0.2)
    assert area(by_steps(gaussian, SCHEDULE, EVERYBODY, secmi_path(20, 100))) == pytest.approx(0.5, abs=0.2)


def test_the_store_itself_tells_members_until_noise_drowns_them() -> None:
    found = []
    for a in (1.0, 0.7, 1e-6):
        noise = np.random.default_rng(3).standard_normal(MEMBERS.shape)
        x_c = (a**0.5 * MEMBERS + (1 - a) ** 0.5 * noise).astype(np.float32)
        found.append(area(by_store(EVERYBODY, x_c, a)))
    assert found[0] == 1.0
    assert found[0] >= found[1] > 0.8
    assert found[2] == pytest.approx(0.5, abs=0.2)


def test_a_constant_prediction_is_stepped_back_exactly() -> None:
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    errors = step_errors(lambda x_t, t: torch.full_like(x_t, 0.3), SCHEDULE, x, (20, 30, 40))
    np.testing.assert_allclose(errors, 0.0, atol=1e-10)


def test_small_steps_of_a_smooth_model_miss_less_than_large_ones() -> None:
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    coarse, fine = (float(np.mean(step_errors(gaussian, SCHEDULE, x, path))) for path in ((20, 40), (20, 22)))
    assert fine < 0.02 * coarse


def test_a_step_down_is_the_samplers() -> None:
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return gaussian(x_t, int(t[0]))

    expected = run(SCHEDULE, predict, x, (50, 30))
    torch.testing.assert_close(ddim(SCHEDULE, x, gaussian(x, 50), 50, 30), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t_cut", [0, 1, 80, 97, 99])
def test_the_backbone_is_asked_above_the_cut_alone(t_cut: int) -> None:
    path = secmi_path(t_cut, 100)
    assert len(path) >= 2
    assert t_cut <= path[0] < path[1]
    assert t_cut < min(loss_steps(t_cut, 100))
    assert max(*loss_steps(t_cut, 100), *path) <= 100


def test_every_row_of_errors_counts_alike() -> None:
    rng = np.random.default_rng(0)
    errors = rng.random((3, 50)) * np.asarray([[1.0], [1e3], [1e-3]])
    scaled = standardised(errors)
    again = standardised(errors * np.asarray([[7.0], [1.0], [1e6]]) + 5.0)
    np.testing.assert_allclose(scaled, again, atol=1e-9)
    assert np.isfinite(standardised(np.ones((2, 4)))).all()


def test_candidates_are_asked_with_their_own_labels_in_any_number() -> None:
    network = UNet(UNetConfig(image_size=4, base_channels=8, num_classes=3)).eval()
    torch.nn.init.normal_(network.last.weight)
    x = torch.randn(300, 1, 4, 4)
    labels = np.arange(300, dtype=np.int32) % 3
    together = predictor(network, labels)(x, 7)
    alone = network(x[257:258], torch.tensor([7]), torch.tensor([int(labels[257])]))
    torch.testing.assert_close(together[257:258], alone, rtol=1e-4, atol=1e-5)
    assert together.shape == x.shape
