from pathlib import Path

import pytest
import torch

from evaluation.experiments.baselines import suite as baselines
from evaluation.experiments.baselines.lineup import COLLAFUSE, RIVALS
from evaluation.metrics.spread import Spread
from evaluation.reporting.outcome import Outcome, Weight, read_outcome, to_json
from evaluation.running.trainings import BackboneTraining, Budget, LocalTraining, name_of
from evaluation.running.workbench import Workbench
from tests.evaluation.experiments.made_up import quality


@pytest.fixture(scope="module")
def outcome(bench: Workbench) -> Outcome:
    return baselines.measure(bench, lambda done, of, words: None)


def test_the_outcome_has_every_rival_and_survives_its_file(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "baselines.json"
    path.write_text(to_json(outcome), encoding="utf-8")
    assert read_outcome(path) == outcome
    names = [rival.name for rival in (COLLAFUSE, *RIVALS)]
    for table in outcome.tables[:2]:
        assert [row[0] for row in table.rows] == [*names, "real against real"]
        assert all(isinstance(cell, Spread) for row in table.rows[:-1] for cell in row[1:])
    assert sum(len(row.images) for row in outcome.pictures[0].rows) <= 40


def test_every_scheme_has_a_network_of_its_own_but_for_the_patch(bench: Workbench, outcome: Outcome) -> None:
    """From the same noise and labels no two hand over the same, except that the patch changes the head's start only."""
    client = bench.federation.clients[0]
    handed_over = [rival.make(bench, client, 0).at_cut.tobytes() for rival in (COLLAFUSE, *RIVALS)]
    names = [rival.name for rival in RIVALS]
    literal, patched = (1 + names.index(name) for name in ("double noising", "double noising, patched"))
    assert handed_over[literal] == handed_over[patched]
    assert len(set(handed_over)) == len(handed_over) - 1


def test_nothing_is_trained_that_was_not_announced(bench: Workbench, outcome: Outcome) -> None:
    wanted = {name_of(t, bench.federation): t for t in baselines.trainings(bench)}
    assert all(bench.networks.has(training) for training in wanted.values())
    # For every seed: two backbones (cut and central), two heads, two alone, and three rivals' networks.
    assert len(wanted) == 3 * (2 + 2 + 2 + 3)


def test_the_central_model_is_the_servers_network_at_0(bench: Workbench) -> None:
    """Which saves a training: the two ways to name it give one network."""
    budget = Budget.backbone(bench.design)
    central = LocalTraining(None, 1.0, budget, 1).train(bench.federation, _silent)
    server = BackboneTraining(0.0, budget, 1).train(bench.federation, _silent)
    for name, value in central.network.state_dict().items():
        torch.testing.assert_close(server.network.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_all_schemes_have_one_budget_for_the_network_that_makes_images(bench: Workbench) -> None:
    accounts = {rival.name: rival.account(bench) for rival in (COLLAFUSE, *RIVALS)}
    assert {max(a.device_updates, a.server_updates) for a in accounts.values()} == {bench.design.updates}
    assert {a.device_evaluations + a.server_evaluations for a in accounts.values()} == {4}
    alone, averaging = accounts["isolated clients"], accounts["federated averaging"]
    assert averaging.device_parameters == alone.device_parameters
    assert averaging.sent_bytes == 2 * 4 * alone.device_parameters  # one round, and the average at the end
    images = sum(len(client.train) for client in bench.federation.clients) / 2
    assert accounts[COLLAFUSE.name].sent_bytes == images * 64 * 4


def test_claims_follow_from_the_spread() -> None:
    qualities = {rival.name: quality(5.0, 5.1, 4.9) for rival in (COLLAFUSE, *RIVALS)}
    qualities["isolated clients"] = quality(9.0, 9.1, 8.9)
    qualities["central model"] = quality(1.0, 1.1, 0.9)
    qualities["double noising"] = quality(2.0, 6.0, 8.0)
    fids = [f for f in baselines.findings(qualities) if f.text.startswith("FID against held-out images")]
    said = {finding.text.split(":")[1].split(" than")[0].strip(): finding for finding in fids}
    assert said["better"].weight is Weight.CLAIM
    assert "central model" in said["better"].text
    assert said["worse"].weight is Weight.CLAIM
    assert "isolated clients" in said["worse"].text
    (undecided,) = [finding for finding in fids if finding.weight is Weight.UNDECIDED]
    assert "double noising (" in undecided.text
    assert "isolated" not in undecided.text


def test_an_agreement_that_nobody_judged_is_not_spoken_of() -> None:
    qualities = {rival.name: quality(5.0, 5.1, 4.9) for rival in (COLLAFUSE, *RIVALS)}
    assert not [f for f in baselines.findings(qualities) if "agreement" in f.text]
    judged = {name: quality(5.0, 5.1, 4.9, agreement=0.8) for name in qualities}
    assert [f for f in baselines.findings(judged) if "agreement" in f.text]


def _silent(done: int, of: int, loss: float) -> None:
    del done, of, loss
