from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion.network import UNetConfig
from edge_agent.heads.energy import EnergyMeter
from evaluation.measuring.cost import CORE_WATTS, bill, counted_flops, network_cost
from evaluation.running.fitting import new_network

CONFIG = UNetConfig(in_channels=1, image_size=8, base_channels=8, num_classes=3, attention=False)


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("powercap")


def test_operations_are_those_of_the_convolutions_and_matrices() -> None:
    """The textbook's count, layer by layer: 2·k²·C_in·C_out for every pixel, 2·n_in·n_out for every matrix."""
    network = new_network(CONFIG, 0)
    found: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            found.append(2 * layer.weight.numel() * output.shape[-1] * output.shape[-2])
        elif isinstance(layer, nn.Linear):
            found.append(2 * layer.weight.numel())

    for layer in network.modules():
        layer.register_forward_hook(count)
    x, t, label = torch.zeros(1, 1, 8, 8), torch.ones(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    counted = counted_flops(lambda: network(x, t, label), backwards=False)
    # The hooks saw the counted pass.
    assert counted == sum(found)


def test_an_update_costs_about_three_evaluations(nowhere: Path) -> None:
    cost = network_cost(CONFIG, EnergyMeter(CORE_WATTS, nowhere), batch_size=4, repeats=2)
    assert 2.5 < cost.update_flops / cost.evaluation_flops <= 3.0
    assert cost.parameters == sum(p.numel() for p in new_network(CONFIG, 0).parameters())


def test_energy_without_counters_is_time_times_watts_and_says_so(nowhere: Path) -> None:
    cost = network_cost(CONFIG, EnergyMeter(CORE_WATTS, nowhere), batch_size=4, repeats=2)
    assert cost.energy == "estimated"
    assert cost.evaluation_joules.mean == pytest.approx(CORE_WATTS * cost.evaluation_seconds.mean)


def test_energy_with_counters_is_what_they_count(tmp_path: Path) -> None:
    """A counter that somebody else drives: it stands still, so nothing was used."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "1000000"), ("energy_uj", "77")):
        (zone / name).write_text(text)
    cost = network_cost(CONFIG, EnergyMeter(CORE_WATTS, tmp_path), batch_size=4, repeats=2)
    assert cost.energy == "measured"
    assert cost.update_joules.mean == 0.0


def test_a_bill_multiplies_and_nobody_pays_for_no_network(nowhere: Path) -> None:
    cost = network_cost(CONFIG, EnergyMeter(CORE_WATTS, nowhere), batch_size=4, repeats=2)
    paid = bill(cost, evaluations=7, samples=100)
    assert paid.image_flops == 7 * cost.evaluation_flops
    assert paid.training_seconds.mean == pytest.approx(100 * cost.update_seconds.mean)
    assert paid.image_seconds.standard_deviation == pytest.approx(
        7 * cost.evaluation_seconds.standard_deviation
    )
    nothing = bill(None, evaluations=7, samples=100)
    assert (nothing.image_flops, nothing.training_flops, nothing.image_seconds.mean) == (0, 0, 0.0)
