from pathlib import Path

import numpy as np
import pytest

from evaluation.experiments.knobs import suite as two_knobs
from evaluation.experiments.knobs.findings import device_findings, private_findings, sampler_findings
from evaluation.experiments.knobs.grid import GridKey, SamplerKey, best_of, within_spread_of_best
from evaluation.experiments.knobs.suite import finish, hand_over, head_levels, server_levels
from evaluation.measuring.chain import networks_at
from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.outcome import Outcome, Weight, read_outcome, to_json
from evaluation.running.design import Design
from evaluation.running.generation import StepPlan
from evaluation.running.workbench import Workbench
from tests.evaluation.experiments.made_up import quality


def around(mean: float) -> Spread:
    return spread((mean - 0.1, mean, mean + 0.1))


def level(fids: dict[tuple[float, int], float]) -> dict[GridKey, Spread]:
    return {GridKey(12, cut, head): around(fid) for (cut, head), fid in fids.items()}


@pytest.fixture(scope="module")
def outcome(bench: Workbench) -> Outcome:
    return two_knobs.measure(bench, lambda done, of, words: None)


def test_the_outcome_has_the_whole_grid_and_survives_its_file(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "knobs.json"
    path.write_text(to_json(outcome), encoding="utf-8")
    assert read_outcome(path) == outcome
    grid, samplers = outcome.tables
    *cells, floor = grid.rows
    assert [(row[0], row[1]) for row in cells] == [(1, "c = 0.4"), (2, "c = 0.4")]
    assert floor[0] == "real against real"
    assert isinstance(floor[2], float)
    assert len({row[:2] for row in samplers.rows}) == 6
    assert all(isinstance(cell, Spread) and cell.n == 3 for row in samplers.rows for cell in row[2:])


def test_nothing_is_trained_beyond_the_cut_sweep(bench: Workbench) -> None:
    assert {t.title for t in two_knobs.trainings(bench)} == {
        "backbone at cut 0.4",
        *(f"head of {client.name} at cut 0.4" for client in bench.federation.clients),
    }


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp2m"])
def test_two_parts_one_after_the_other_are_the_whole(bench: Workbench, sampler: str) -> None:
    client = bench.federation.clients[0]
    backbone, head = networks_at(bench, client, 0.4, 0)
    assert backbone is not None
    assert head is not None
    steps = StepPlan(3, 2, sampler, "log_snr")
    whole = bench.generated(client, backbone, head, 0.4, 7, steps)
    at_cut = hand_over(bench, client, backbone, 20, steps, 7)
    np.testing.assert_array_equal(at_cut, whole.at_cut)
    np.testing.assert_array_equal(finish(bench, client, head, at_cut, 20, steps, 7), whole.finished)


def test_levels_reach_around_what_the_design_spends() -> None:
    assert head_levels(Design.quick()) == (1, 2, 4, 8)
    assert server_levels(Design.quick()) == (3, 6, 12)
    assert head_levels(Design()) == (1, 2, 4, 8, 16, 32)


def test_cells_within_the_spread_of_the_best_are_named() -> None:
    cells = level({(0.4, 1): 3.0, (0.4, 4): 1.0, (0.8, 1): 1.05, (0.8, 4): 5.0})
    assert best_of(cells) == GridKey(12, 0.4, 4)
    assert within_spread_of_best(cells) == {GridKey(12, 0.4, 4), GridKey(12, 0.8, 1)}


def test_a_private_cut_is_said_to_be_usable_or_not_by_the_spread() -> None:
    near, far = private_findings(level({(0.4, 1): 3.0, (0.4, 4): 1.0, (0.8, 1): 1.05, (0.8, 4): 5.0}))
    assert near.weight is Weight.UNDECIDED
    # Welch by hand: 0.05 + t·√(2·0.1²/3), t = 3.961 at 1 − 0.05/6 with 4 degrees of freedom.
    assert "With 1 evaluation it may be worse by as much as 0.4." in near.text
    assert far.weight is Weight.CLAIM
    assert "4 evaluations (5.00 ± 0.10)" in far.text
    (only,) = private_findings(level({(0.4, 4): 1.0, (0.8, 1): 4.0, (0.8, 4): 5.0}))
    assert only.weight is Weight.CLAIM


@pytest.mark.parametrize(("few", "many", "weight"), [(3.0, 1.0, Weight.CLAIM), (1.0, 1.05, Weight.UNDECIDED)])
def test_few_evaluations_are_held_against_many(few: float, many: float, weight: Weight) -> None:
    claim, fact, price = device_findings(0.8, level({(0.8, 1): few, (0.8, 8): many}), 12, 250.0)
    assert claim.weight is weight
    assert "8 times less" in fact.text
    assert fact.weight is price.weight is Weight.FACT
    assert "ε = 250 at δ = 1e-05" in price.text
    assert "promises nothing" in price.text


def test_a_cut_that_is_the_best_is_not_said_to_be_worse_than_itself() -> None:
    (only,) = private_findings(level({(0.4, 1): 1.05, (0.8, 1): 1.0}))
    assert only.weight is Weight.UNDECIDED
    assert "worse" not in only.text


def test_samplers_are_compared_at_equal_evaluations() -> None:
    figures = {("ddim", "uniform"): 5.0, ("ddpm", "uniform"): 9.0, ("dpmpp2m", "log_snr"): 5.05}
    samplers = {
        SamplerKey(*way, head): tuple(
            (q[0].held_out,) for q in quality(*(fid + d for d in (-0.1, 0, 0.1))).by_seed
        )
        for way, fid in figures.items()
        for head in (1, 2)
    }
    found = sampler_findings(samplers, ("ddim", "uniform"))
    assert [finding.weight for finding in found] == [Weight.CLAIM, Weight.UNDECIDED] * 2
    assert "ddpm with uniform steps (9.00" in found[0].text
    assert "with 1 evaluation on the device" in found[0].text
