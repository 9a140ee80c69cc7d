"""Guidance against closed forms: a mixture whose labels are asked for, and a line whose position is."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion.arrays import Float64
from diffusion.errors import DiffusionError
from diffusion.guidance import dropped, guided, nothing_asked, prediction_of
from diffusion.network import UNet, UNetConfig
from diffusion.plan import plan
from diffusion.sampling import run
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from tests.diffusion.oracle import Gaussian, frechet

SCHEDULE = NoiseSchedule.cosine(200)
CLASSES = (
    Gaussian(np.array([0.8, 0.1]), np.diag([0.04, 0.2])),
    Gaussian(np.array([-0.7, 0.4]), np.array([[0.1, 0.05], [0.05, 0.1]])),
)
NONE = torch.tensor(len(CLASSES))
COUNT = 3000


def log_density(one: Gaussian, x: Tensor, alpha_bar: Float64) -> Tensor:
    """log p_t(x) of √ᾱ·x_0 + √(1-ᾱ)·ε; x (B, 2, 1, 1) float64, alpha_bar (B,)."""
    spread = alpha_bar[:, None, None] * one.covariance + (1 - alpha_bar)[:, None, None] * np.eye(2)
    mean = torch.tensor(np.sqrt(alpha_bar)[:, None] * one.mean)
    density = torch.distributions.MultivariateNormal(mean, torch.tensor(spread))
    result: Tensor = density.log_prob(x.flatten(1))  # type: ignore[no-untyped-call]
    return result


def predict_class(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    """The optimal ε̂ of each sample's class, or, for the label 2, of both classes in equal parts."""
    assert label is not None
    alpha_bar = SCHEDULE.alpha_bar[t.numpy()]
    each = torch.stack([one.predict(SCHEDULE, x, t) for one in CLASSES])
    likely = torch.stack([log_density(one, x, alpha_bar) for one in CLASSES]).softmax(dim=0)
    known = torch.nn.functional.one_hot(label, 3)[:, :2].T.double()
    share = torch.where(label == NONE, likely, known)
    return (share[:, :, None, None, None] * each).sum(dim=0)


def start(count: int = COUNT) -> Tensor:
    return torch.randn(count, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def land(server: float, head: float, asked: Tensor, cut: float = 0.4) -> Tensor:
    """A chain guided at two scales, one above the cut and one below: (B, 2) float64 at t = 0."""
    t_cut = Cut(SCHEDULE, cut).t_cut
    x = start(len(asked))
    for scale, steps in ((server, plan(SCHEDULE, 200, t_cut, 60)), (head, plan(SCHEDULE, t_cut, 0, 40))):
        x = run(SCHEDULE, guided(predict_class, asked, NONE, scale), x, steps)
    return x.flatten(1)


def distance(points: Tensor, target: Gaussian) -> float:
    return frechet(points.mean(dim=0).numpy(), points.T.cov().numpy(), target)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_at_one_the_prediction_is_the_conditional_and_at_zero_the_unconditional(scale: float) -> None:
    x, t, asked = start(8), torch.arange(20, 180, 20), torch.tensor([0, 1] * 4)
    expected = predict_class(x, t, asked if scale else torch.full_like(asked, 2))
    near = guided(predict_class, asked, NONE, scale + 1e-9)(x, t)
    torch.testing.assert_close(guided(predict_class, asked, NONE, scale)(x, t), expected, rtol=0, atol=0)
    torch.testing.assert_close(near, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("label", [0, 1])
def test_a_chain_guided_by_one_lands_on_the_class_that_was_asked_for(label: int) -> None:
    landed = land(1.0, 1.0, torch.full((COUNT,), label))
    assert distance(landed, CLASSES[label]) < 3e-3
    assert distance(landed, CLASSES[1 - label]) > 1


def test_a_chain_guided_by_nothing_lands_on_both_classes() -> None:
    asked = torch.zeros(COUNT, dtype=torch.int64)
    first = CLASSES[0].mean + CLASSES[1].mean
    landed = land(0.0, 0.0, asked)
    assert float((landed[:, 0] > 0.1).double().mean()) == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(landed.mean(dim=0).numpy(), first / 2, atol=0.05)


def test_more_guidance_moves_away_from_the_other_class_and_narrows() -> None:
    asked = torch.zeros(COUNT, dtype=torch.int64)
    plain, strong = land(1.0, 1.0, asked), land(4.0, 4.0, asked)
    assert float(strong[:, 0].mean()) > float(plain[:, 0].mean()) + 0.02
    assert float(strong[:, 0].var()) < 0.6 * float(plain[:, 0].var())


def test_a_head_alone_turns_a_late_cut_to_what_was_asked_and_an_early_one_hardly() -> None:
    asked = torch.ones(COUNT, dtype=torch.int64)
    shares = [float((land(0.0, 1.0, asked, cut)[:, 0] < 0.1).double().mean()) for cut in (0.1, 0.5, 0.95)]
    assert shares[0] < 0.6 < shares[1] < shares[2]
    assert shares[2] > 0.98


def line(slope: float, rest: float) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The optimal ε̂ of x_0 = slope·c + √rest·z in one dimension, c ~ N(0, 1); asked holds (c, known) in its rows."""

    def predict(x: Tensor, t: Tensor, asked: Tensor | None) -> Tensor:
        assert asked is not None
        alpha_bar = torch.tensor(SCHEDULE.alpha_bar)[t]
        c, known = asked.T
        variance = alpha_bar * (rest + (1 - known) * slope**2) + 1 - alpha_bar
        centred = x.flatten() - alpha_bar.sqrt() * slope * c * known
        predicted: Tensor = (1 - alpha_bar).sqrt() * centred / variance
        return predicted.reshape(x.shape)

    return predict


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5, 7.0])
def test_the_guided_prediction_is_the_score_of_the_sharpened_density(scale: float) -> None:
    """ε̂ = −√(1-ᾱ)·∇ log p_t(x)^(1-s)·p_t(x|c)^s, by automatic differentiation of the densities."""
    slope, rest = 0.7, 0.2
    t = torch.tensor([10, 80, 190])
    asked = torch.tensor([[1.2, 1.0], [-0.5, 1.0], [0.3, 1.0]], dtype=torch.float64)
    x = torch.tensor([0.4, -1.1, 0.2], dtype=torch.float64).reshape(3, 1, 1, 1).requires_grad_()
    alpha_bar = torch.tensor(SCHEDULE.alpha_bar)[t]
    wide = torch.distributions.Normal(
        torch.zeros(3).double(), (alpha_bar * (rest + slope**2) + 1 - alpha_bar).sqrt()
    )
    narrow = torch.distributions.Normal(
        alpha_bar.sqrt() * slope * asked[:, 0], (alpha_bar * rest + 1 - alpha_bar).sqrt()
    )
    flat = x.flatten()
    sharpened = (1 - scale) * wide.log_prob(flat) + scale * narrow.log_prob(flat)  # type: ignore[no-untyped-call]
    (score,) = torch.autograd.grad(sharpened.sum(), x)
    nothing = torch.zeros(2, dtype=torch.float64)
    found = guided(line(slope, rest), asked, nothing, scale)(x.detach(), t)
    torch.testing.assert_close(found.flatten(), -(1 - alpha_bar).sqrt() * score.flatten())


@pytest.mark.parametrize(("scale", "sizes"), [(0.0, [5]), (1.0, [5]), (3.0, [10])])
def test_a_step_is_one_call_of_the_network(scale: float, sizes: list[int]) -> None:
    seen: list[int] = []

    def predict(x: Tensor, t: Tensor, asked: Tensor | None) -> Tensor:
        assert asked is not None
        assert len(x) == len(t) == len(asked)
        seen.append(len(x))
        return x

    guided(predict, torch.zeros(5, 3), torch.ones(3), scale)(torch.zeros(5, 1, 2, 2), torch.ones(5).long())
    assert seen == sizes


@pytest.mark.parametrize("size", [None, 3], ids=["labels", "vectors"])
def test_a_networks_own_null_is_what_dropping_and_guiding_use(size: int | None) -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(1, 8, 8, (1,), 1, False, num_classes=None if size else 4, condition_size=size))
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    predict, nothing = prediction_of(network), nothing_asked(network)
    asked = torch.tensor([0, 3]) if size is None else torch.randn(2, size)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([7, 70])
    with torch.no_grad():
        plain = predict(x, t, None)
        torch.testing.assert_close(predict(x, t, nothing.expand_as(asked)), plain)
        torch.testing.assert_close(guided(predict, asked, nothing, 0.0)(x, t), plain)
        wanted = predict(x, t, asked)
        assert not torch.allclose(wanted, plain)
        torch.testing.assert_close(guided(predict, asked, nothing, 2.0)(x, t), 2 * wanted - plain)


def test_a_network_that_cannot_be_asked_has_no_null() -> None:
    with pytest.raises(DiffusionError, match="labels or a condition"):
        nothing_asked(UNet(UNetConfig()))


@pytest.mark.parametrize("asked", [torch.arange(4000) % 7, torch.rand(4000, 3)], ids=["labels", "vectors"])
def test_the_share_that_was_to_be_dropped_is_dropped_whole_and_the_rest_left_alone(asked: Tensor) -> None:
    nothing = torch.tensor(7) if asked.ndim == 1 else torch.tensor([-1.0, -2.0, -3.0])
    result = dropped(asked, nothing, 0.25, torch.Generator().manual_seed(1))
    gone = (result == nothing).reshape(4000, -1).all(dim=1)
    assert float(gone.double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(result[~gone], asked[~gone])
    assert result.dtype == asked.dtype
    again = dropped(asked, nothing, 0.25, torch.Generator().manual_seed(1))
    assert torch.equal(result, again)


@pytest.mark.parametrize(("share", "left"), [(0.0, 10), (1.0, 0)])
def test_nothing_or_everything_can_be_dropped(share: float, left: int) -> None:
    kept = dropped(torch.zeros(10).long(), torch.tensor(1), share, torch.Generator().manual_seed(0))
    assert int((kept == 0).sum()) == left


def test_the_null_learns_from_what_was_dropped() -> None:
    nothing, asked = torch.zeros(2, requires_grad=True), torch.ones(50, 2, requires_grad=True)
    kept = dropped(asked, nothing, 0.5, torch.Generator().manual_seed(0))
    torch.autograd.backward(kept.sum())
    assert nothing.grad is not None
    assert asked.grad is not None
    assert float(nothing.grad[0]) + float(asked.grad[:, 0].sum()) == 50
    assert 10 < float(nothing.grad[0]) < 40


@pytest.mark.parametrize(
    "wrong",
    [
        partial(guided, predict_class, torch.zeros(2).long(), NONE, -1.0),
        partial(guided, predict_class, torch.zeros(2).long(), NONE, float("nan")),
        partial(guided, predict_class, torch.zeros(2).long(), NONE, float("inf")),
        partial(dropped, torch.zeros(2).long(), NONE, 1.5, torch.Generator()),
        lambda: guided(predict_class, torch.zeros(2).long(), NONE, 1.0)(start(3), torch.ones(3).long()),
    ],
    ids=["negative", "nan", "infinite", "more than all", "another batch"],
)
def test_guidance_that_means_nothing_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(DiffusionError):
        wrong()
