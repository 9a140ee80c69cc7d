"""The average of weights over a training."""

import pytest
import torch

from diffusion.ema import EMA
from diffusion.errors import DiffusionError
from diffusion.network import UNet, UNetConfig
from tests.diffusion.networks import SMALL, woken


def test_the_average_starts_fast_and_then_holds() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = EMA(model, decay=0.99)
    model.weight.data.fill_(1.0)
    distances = []
    for _ in range(2000):
        average.update(model)
        distances.append(1 - float(average.state_dict()["weight"].item()))
    assert distances[0] == pytest.approx(2 / 11)
    assert distances[1] == pytest.approx(2 / 11 * 3 / 12)
    assert distances[-1] == pytest.approx(distances[-2] * 0.99, abs=1e-6)
    model.weight.data.fill_(0.0)
    average.update(model)
    assert average.state_dict()["weight"].item() == pytest.approx(0.99, abs=1e-3)


def test_an_average_continues_where_it_was_saved() -> None:
    model = woken(SMALL)
    average = EMA(model, decay=0.9)
    average.update(woken(SMALL, seed=1))
    saved = average.state_dict()
    resumed = EMA(woken(SMALL, seed=2), decay=0.9)
    resumed.load_state_dict(saved)
    for later in (average, resumed):
        later.update(woken(SMALL, seed=3))
    target = UNet(SMALL)
    resumed.copy_to(target)
    for name, value in average.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
        if name in target.state_dict():
            torch.testing.assert_close(target.state_dict()[name], value, rtol=0, atol=0)


def test_a_saved_average_is_a_copy() -> None:
    average = EMA(woken(SMALL), decay=0.5)
    saved = average.state_dict()
    before = {name: value.clone() for name, value in saved.items()}
    average.update(woken(SMALL, seed=1))
    assert all(torch.equal(saved[name], value) for name, value in before.items())


def test_the_average_of_another_network_is_refused() -> None:
    average = EMA(UNet(SMALL))
    with pytest.raises(DiffusionError, match="another network"):
        average.load_state_dict(EMA(UNet(UNetConfig(base_channels=8))).state_dict())
    with pytest.raises(DiffusionError, match="decay"):
        EMA(UNet(SMALL), decay=1.0)
