"""Images made without the other side: by which steps, from which noise, and what is said of them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion.network import UNet
from evaluation.experiments.sweep.alone import Alone, judged_alone, made_alone
from evaluation.experiments.sweep.alone_report import CHAIN, alone_findings, alone_table
from evaluation.experiments.sweep.point import CutPoint
from evaluation.measuring.chain import networks_at
from evaluation.measuring.cost import bill
from evaluation.measuring.quality import Quality, Real
from evaluation.reporting.outcome import PictureRow, Weight
from evaluation.running.workbench import Workbench
from tests.evaluation.experiments.made_up import quality

CUT, EVALUATIONS = 0.4, 4
NOTHING = bill(None, evaluations=0, samples=0)


class Asked:
    """What a network is asked while it is heard: the steps, and the first input."""

    def __init__(self, network: UNet) -> None:
        self.steps: list[int] = []
        self.first: NDArray[np.float32] | None = None
        self._handle = network.register_forward_pre_hook(self._hear)

    def _hear(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.first is None:
            self.first = inputs[0].numpy().copy()
        self.steps.append(int(inputs[1][0]))

    def forget(self) -> None:
        self._handle.remove()


@pytest.fixture(scope="module")
def networks(bench: Workbench) -> tuple[UNet, UNet]:
    backbone, head = networks_at(bench, bench.federation.clients[0], CUT, 0)
    assert backbone is not None
    assert head is not None
    return backbone, head


def asked_of(
    networks: tuple[UNet, UNet], make: Callable[[], object]
) -> tuple[list[int], list[int], NDArray[np.float32]]:
    """The steps asked of the backbone and of the head, and the input of whoever began."""
    server, device = (Asked(network) for network in networks)
    make()
    for each in (server, device):
        each.forget()
    first = server.first if server.first is not None else device.first
    assert first is not None
    return server.steps, device.steps, first


def test_each_way_asks_one_network_as_often_as_the_chain_does_both(
    bench: Workbench, networks: tuple[UNet, UNet]
) -> None:
    client, t_cut = bench.federation.clients[0], bench.t_cut(CUT)
    server, device, noise = asked_of(networks, lambda: made_alone(bench, client, CUT, 0, networks))
    over_all, estimate = server[:EVALUATIONS], server[EVALUATIONS:]
    alone, from_cut = device[:EVALUATIONS], device[EVALUATIONS:]

    assert [len(part) for part in (over_all, estimate, alone, from_cut)] == [EVALUATIONS] * 4
    assert over_all == alone
    assert over_all[0] == bench.schedule.T
    assert min(over_all) <= t_cut < max(alone)
    assert estimate[0] == bench.schedule.T
    assert estimate[-1] == t_cut + 1
    assert from_cut[0] == t_cut
    chain = asked_of(networks, lambda: bench.generated(client, *networks, CUT, 0))
    np.testing.assert_array_equal(noise, chain[2])


def test_the_servers_estimate_is_the_image_that_its_last_prediction_is_of(
    bench: Workbench, networks: tuple[UNet, UNet]
) -> None:
    made = made_alone(bench, bench.federation.clients[0], CUT, 0, networks)[Alone.SERVER_ESTIMATE]
    t = bench.t_cut(CUT) + 1
    a = float(bench.schedule.alpha_bar[t])
    labels = torch.from_numpy(made.labels.astype(np.int64))
    with torch.inference_mode():
        noise = networks[0](torch.from_numpy(made.at_cut), torch.full((len(labels),), t), labels).numpy()
    estimate = np.clip((made.at_cut - (1 - a) ** 0.5 * noise) / a**0.5, -1, 1)
    np.testing.assert_allclose(made.finished, estimate, atol=1e-4)


def test_where_one_side_has_the_whole_chain_nothing_is_made_again(
    bench: Workbench, networks: tuple[UNet, UNet]
) -> None:
    client = bench.federation.clients[0]
    assert judged_alone(bench, client, 0.0, 0, (networks[0], None)) == {}
    assert judged_alone(bench, client, 1.0, 0, (None, networks[1])) == {}


def point(cut_ratio: float, chain: Quality, alone: Quality | None) -> CutPoint:
    return CutPoint(
        cut_ratio,
        chain,
        chain,
        {} if alone is None else dict.fromkeys(Alone, alone),
        (),
        (),
        (NOTHING, NOTHING),
        (NOTHING, NOTHING),
        PictureRow("", ()),
    )


def test_only_what_the_seeds_separate_is_said_to_be_worse() -> None:
    chain, bad, wide = quality(5.0, 5.1, 4.9), quality(20.0, 20.5, 19.5), quality(4.0, 5.0, 6.0)
    points = [point(0.0, chain, None), point(0.4, chain, bad), point(0.8, chain, wide)]
    findings = alone_findings(points)
    assert len(findings) == 2 * (len(Alone) + 2)
    worse, undecided = findings[:2]
    assert worse.weight is Weight.CLAIM
    assert "the server alone, over all steps, is worse than both together at: c = 0.4 (20.00" in worse.text
    assert undecided.weight is Weight.UNDECIDED
    assert "by the seeds at: c = 0.8 (5.00 ± 1.00 against 5.00 ± 0.10)" in undecided.text
    table = alone_table(points, Real.HELD_OUT)
    assert [row[:2] for row in table.rows] == [
        (cut, words) for cut in ("c = 0.4", "c = 0.8") for words in (CHAIN, *Alone)
    ]
