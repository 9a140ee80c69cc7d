"""The network: shapes, labels, conditions, and export."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusion.errors import DiffusionError
from diffusion.network import UNet, UNetConfig, parameter_count, sinusoids
from tests.diffusion.networks import SMALL, woken

ASKED = UNetConfig(1, 8, 16, (1, 2), 1, attention=True, condition_size=3)


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(1, 8, 16, (1, 2), 1),
        UNetConfig(1, 8, 8, (1,), 1, attention=False),
        UNetConfig(3, 32, 24, (1, 2, 2), 2, num_classes=4),
        UNetConfig(2, 12, 40, (1, 3, 1), 1, attention=False, num_classes=1),
    ],
    ids=["digits", "tiny", "colour", "odd widths"],
)
def test_the_predicted_noise_has_the_images_shape(config: UNetConfig) -> None:
    model = woken(config)
    x = torch.randn(3, config.in_channels, config.image_size, config.image_size)
    predicted = model(x, torch.tensor([1, 500, 1000]))
    assert predicted.shape == x.shape
    assert predicted.dtype == torch.float32
    assert torch.isfinite(predicted).all()


def test_a_new_network_predicts_nothing() -> None:
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(UNet(SMALL)(x, torch.tensor([1, 900])), torch.zeros_like(x))


def test_every_weight_learns() -> None:
    model = woken(SMALL)
    model(
        torch.randn(4, 1, 8, 8), torch.tensor([1, 9, 99, 999]), torch.tensor([0, 5, 9, 10])
    ).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_step_and_label_change_the_prediction_of_their_own_sample_only() -> None:
    model = woken(SMALL)
    x = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1)
    t, label = torch.tensor([10, 10, 500, 10]), torch.tensor([3, 4, 3, 3])
    with torch.no_grad():
        predicted = model(x, t, label)
        alone = model(x[:1], t[:1], label[:1])
    assert not torch.allclose(predicted[0], predicted[1])
    assert not torch.allclose(predicted[0], predicted[2])
    torch.testing.assert_close(predicted[0], predicted[3])
    torch.testing.assert_close(predicted[:1], alone, rtol=1e-4, atol=1e-5)


def test_no_label_is_the_last_label() -> None:
    model = woken(SMALL)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([5, 800])
    with torch.no_grad():
        torch.testing.assert_close(model(x, t), model(x, t, torch.tensor([10, 10])))


def test_a_network_without_labels_takes_none() -> None:
    model = UNet(UNetConfig(num_classes=None))
    with pytest.raises(DiffusionError, match="without labels"):
        model(torch.zeros(1, 1, 8, 8), torch.tensor([1]), torch.tensor([0]))


def test_every_weight_of_a_conditional_network_learns_the_one_of_no_condition_too() -> None:
    model = woken(ASKED)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 9, 99, 999])
    asked = model(x, t, condition=torch.randn(4, 3)).square().sum()
    (asked + model(x, t).square().sum()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_a_condition_changes_the_prediction_of_its_own_sample_only() -> None:
    model = woken(ASKED)
    x = torch.randn(1, 1, 8, 8).expand(3, -1, -1, -1)
    t, condition = torch.full((3,), 10), torch.tensor([[0.0, 1, 0], [1.0, 1, 0], [0.0, 1, 0]])
    with torch.no_grad():
        predicted = model(x, t, condition=condition)
        alone = model(x[:1], t[:1], condition=condition[:1])
    assert not torch.allclose(predicted[0], predicted[1])
    torch.testing.assert_close(predicted[0], predicted[2])
    torch.testing.assert_close(predicted[:1], alone, rtol=1e-4, atol=1e-5)


def test_no_condition_is_the_learned_one_sample_by_sample() -> None:
    model = woken(ASKED)
    assert model.null_condition is not None
    x, t, asked = torch.randn(2, 1, 8, 8), torch.tensor([5, 800]), torch.randn(2, 3)
    with torch.no_grad():
        mixed = model(x, t, condition=torch.stack((asked[0], model.null_condition)))
        torch.testing.assert_close(mixed[:1], model(x, t, condition=asked)[:1])
        torch.testing.assert_close(mixed[1:], model(x, t)[1:])
    assert not torch.allclose(mixed[0], model(x, t)[0])


def test_label_and_condition_go_together() -> None:
    model = woken(UNetConfig(1, 8, 8, (1,), 1, attention=False, num_classes=2, condition_size=3))
    x, t, label, condition = torch.randn(1, 1, 8, 8), torch.tensor([5]), torch.tensor([1]), torch.ones(1, 3)
    with torch.no_grad():
        results = [model(x, t, k, c) for k in (None, label) for c in (None, condition)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(results) for b in results[:i])


def test_a_condition_the_network_was_not_made_for_is_refused() -> None:
    x, t = torch.zeros(2, 1, 8, 8), torch.tensor([1, 1])
    with pytest.raises(DiffusionError, match="without a condition"):
        UNet(SMALL)(x, t, condition=torch.zeros(2, 3))
    with pytest.raises(DiffusionError, match="3 numbers for each"):
        UNet(ASKED)(x, t, condition=torch.zeros(2, 4))
    with pytest.raises(DiffusionError, match="3 numbers for each"):
        UNet(ASKED)(x, t, condition=torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("num_classes", "first_of_two", "energy"),
    [
        (None, [0.0860954, 0.1094670, 0.1101492, 0.0850921], 1.3614094),
        (3, [0.0861700, 0.1086936, 0.1093664, 0.0839572], 1.3531140),
    ],
)
def test_a_network_without_a_condition_is_the_one_it_was_before_there_were_any(
    num_classes: int | None, first_of_two: list[float], energy: float
) -> None:
    """The figures were taken before the network could be conditioned."""
    model = UNet(UNetConfig(1, 8, 8, (1, 2), 1, num_classes=num_classes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            wave = torch.sin(torch.arange(1, parameter.numel() + 1, dtype=torch.float64))
            parameter.copy_(0.1 * wave.reshape(parameter.shape))
        label = None if num_classes is None else torch.tensor([1, 3])
        predicted = model(torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8), torch.tensor([5, 800]), label)
    torch.testing.assert_close(predicted[0].flatten()[::21], torch.tensor(first_of_two), rtol=1e-4, atol=1e-5)
    assert float(predicted.square().sum()) == pytest.approx(energy, rel=1e-4)
    assert len(model.state_dict()) == (118 if num_classes is None else 119)
    assert not [name for name in model.state_dict() if "condition" in name]


def test_a_condition_leaves_the_other_weights_where_they_were() -> None:
    torch.manual_seed(0)
    plain = UNet(replace(ASKED, condition_size=None)).state_dict()
    torch.manual_seed(0)
    asked = UNet(ASKED).state_dict()
    assert all(torch.equal(asked[name], weight) for name, weight in plain.items())


@pytest.mark.parametrize("config", [SMALL, ASKED], ids=["with labels", "with a condition"])
def test_a_configuration_survives_json(config: UNetConfig) -> None:
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_description_from_before_there_were_conditions_is_read_and_written_alike() -> None:
    before = {
        "in_channels": 1,
        "image_size": 8,
        "base_channels": 16,
        "channel_multipliers": [1, 2],
        "blocks_per_level": 1,
        "attention": True,
        "num_classes": 10,
    }
    assert UNetConfig.from_dict(before) == SMALL
    assert SMALL.to_dict() == before


def test_unknown_or_missing_keys_are_refused() -> None:
    with pytest.raises(DiffusionError, match="dropout"):
        UNetConfig.from_dict({**SMALL.to_dict(), "dropout": 0.1})
    short = SMALL.to_dict()
    del short["attention"]
    with pytest.raises(DiffusionError, match="attention"):
        UNetConfig.from_dict(short)


@pytest.mark.parametrize(
    "wrong",
    [
        {"in_channels": 0},
        {"image_size": 9},
        {"image_size": 0},
        {"base_channels": 12},
        {"base_channels": 0},
        {"channel_multipliers": ()},
        {"channel_multipliers": (1, 0)},
        {"blocks_per_level": 0},
        {"num_classes": 0},
        {"condition_size": 0},
        {"condition_size": -1},
    ],
    ids=str,
)
def test_an_impossible_network_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DiffusionError):
        UNetConfig(**wrong)


def test_one_graph_serves_every_batch_size() -> None:
    """What ONNX export rests on: one traced graph with a free batch dimension."""
    model = woken(SMALL)
    batch = torch.export.Dim("batch", min=1, max=1024)
    inputs = (torch.randn(3, 1, 8, 8), torch.tensor([1, 500, 1000]), torch.tensor([0, 9, 10]))
    shapes = ({0: batch}, {0: batch}, {0: batch})
    graph = torch.export.export(model, inputs, dynamic_shapes=shapes).module()
    for size in (1, 5):
        x, t, label = (
            torch.randn(size, 1, 8, 8),
            torch.arange(1, size + 1),
            torch.zeros(size, dtype=torch.int64),
        )
        with torch.no_grad():
            torch.testing.assert_close(graph(x, t, label), model(x, t, label), rtol=1e-4, atol=1e-5)


def test_sinusoids_tell_all_steps_apart() -> None:
    codes = sinusoids(torch.arange(1, 1001), 32)
    assert codes.shape == (1000, 32)
    distances = torch.cdist(codes.double(), codes.double()) + 10 * torch.eye(1000)
    assert distances.min() > 0.1


def test_a_narrow_head_is_far_smaller_than_a_backbone() -> None:
    head, backbone = UNet(UNetConfig(base_channels=16)), UNet(UNetConfig(base_channels=48))
    assert parameter_count(head) * 7 < parameter_count(backbone)
