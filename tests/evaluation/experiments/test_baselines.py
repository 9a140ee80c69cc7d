from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluation.experiments.baselines import suite as baselines
from evaluation.experiments.baselines.isolated import equal_epochs
from evaluation.experiments.baselines.lineup import (
    COLLAFUSE,
    DEVICE_BUDGET,
    EQUAL_EPOCHS,
    EQUAL_UPDATES,
    LINEUP,
    OFTEN,
    RIVALS,
    SELDOM,
)
from evaluation.measuring.chain import trainings_at
from evaluation.measuring.quality import COLUMNS, Figure, Real
from evaluation.measuring.verdicts import better_of
from evaluation.metrics.spread import Spread
from evaluation.reporting.outcome import Outcome, Weight, read_outcome, to_json
from evaluation.running.trainings import BackboneTraining, Budget, LocalTraining, name_of
from evaluation.running.workbench import Setting, Workbench
from tests.evaluation.experiments.made_up import quality
from tests.evaluation.tiny import PLAN, TINY


@pytest.fixture(scope="module")
def outcome(bench: Workbench) -> Outcome:
    return baselines.measure(bench, lambda done, of, words: None)


def test_the_outcome_has_every_rival_and_survives_its_file(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "baselines.json"
    path.write_text(to_json(outcome), encoding="utf-8")
    assert read_outcome(path) == outcome
    names = [rival.name for rival in LINEUP]
    for table in outcome.tables[:2]:
        assert [row[0] for row in table.rows] == [*names, "real against real"]
        assert all(isinstance(cell, Spread) for row in table.rows[:-1] for cell in row[1:])
    assert sum(len(row.images) for row in outcome.pictures[0].rows) <= 60


def test_every_scheme_has_a_network_of_its_own_but_for_the_patch(bench: Workbench, outcome: Outcome) -> None:
    """From the same noise and labels no two give the same images; the patch changes the head's start only."""
    client = bench.federation.clients[0]
    made = [rival.make(bench, client, 0) for rival in LINEUP]
    names = [rival.name for rival in RIVALS]
    literal, patched = (1 + names.index(name) for name in ("double noising", "double noising, patched"))
    assert made[literal].at_cut.tobytes() == made[patched].at_cut.tobytes()
    assert len({each.finished.tobytes() for each in made}) == len(made)


def test_nothing_is_trained_that_was_not_announced(bench: Workbench, outcome: Outcome) -> None:
    wanted = {name_of(t, bench.federation): t for t in baselines.trainings(bench)}
    assert all(bench.networks.has(training) for training in wanted.values())
    # For every seed: two backbones (cut and central), two heads, two alone at three budgets, and four rivals' networks. One is
    # named twice: the second client's equal epochs are two updates, as a head's are.
    assert len(wanted) == 3 * (2 + 2 + 3 * 2 - 1 + 4)


def test_the_central_model_is_the_servers_network_at_0(bench: Workbench) -> None:
    """Which saves a training: the two ways to name it give one network."""
    budget = Budget.backbone(bench.design)
    central = LocalTraining(None, 1.0, budget, 1).train(bench.federation, _silent)
    server = BackboneTraining(0.0, budget, 1).train(bench.federation, _silent)
    for name, value in central.network.state_dict().items():
        torch.testing.assert_close(server.network.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_all_schemes_but_two_have_one_budget_for_the_network_that_makes_images(bench: Workbench) -> None:
    accounts = {rival.name: rival.account(bench) for rival in LINEUP}
    assert {a.device_evaluations + a.server_evaluations for a in accounts.values()} == {4}
    smaller = [accounts.pop(rival.name) for rival in (EQUAL_EPOCHS, DEVICE_BUDGET)]
    assert {max(a.device_updates, a.server_updates) for a in accounts.values()} == {bench.design.updates}
    assert all(a.device_updates < bench.design.updates and a.server_updates == 0 for a in smaller)
    images = sum(len(client.train) for client in bench.federation.clients) / 2
    assert accounts[COLLAFUSE.name].sent_bytes == images * 64 * 4


def test_averaging_sends_its_weights_in_every_round_and_once_at_the_end(bench: Workbench) -> None:
    alone, seldom, often = (rival.account(bench) for rival in (EQUAL_UPDATES, SELDOM, OFTEN))
    assert seldom.device_parameters == often.device_parameters == alone.device_parameters
    assert seldom.sent_bytes == (1 + 1) * 4 * alone.device_parameters
    assert often.sent_bytes == (2 + 1) * 4 * alone.device_parameters
    assert seldom.device_flops == often.device_flops == alone.device_flops


def test_a_device_alone_on_its_budget_trains_with_what_the_split_asks_of_it(bench: Workbench) -> None:
    alone, split = DEVICE_BUDGET.account(bench), COLLAFUSE.account(bench)
    assert alone.device_updates == split.device_updates
    assert alone.device_parameters == split.device_parameters
    assert alone.device_flops == split.device_flops > 0
    assert (alone.sent_bytes, alone.server_flops) == (0, 0)


def test_the_operations_of_all_together_are_those_of_every_device_and_the_server(outcome: Outcome) -> None:
    (table,) = [table for table in outcome.tables if table.title == "What each scheme takes"]
    names = [column.name for column in table.columns]
    device, server, together = (
        names.index(f"training, {side}") for side in ("a device", "the server", "all together")
    )
    assert [row[0] for row in table.rows] == [rival.name for rival in LINEUP]
    for row in table.rows:
        on_device, on_server, everywhere = (row[i] for i in (device, server, together))
        assert isinstance(on_device, float)
        assert isinstance(on_server, float)
        assert everywhere == 2 * on_device + on_server > 0


def test_equal_epochs_divide_the_updates_by_the_images(tmp_path: Path) -> None:
    """A client of three quarters of the images makes three quarters of the updates; one of very few makes one."""
    plan = replace(PLAN, partition="size:0.75,0.25")
    for updates, expected in ((400, [300, 100]), (2, [2, 1]), (1, [1, 1])):
        uneven = Workbench(Setting(replace(TINY, updates=updates), plan, tmp_path))
        budgets = [equal_epochs(uneven, client) for client in uneven.federation.clients]
        assert [budget.updates for budget in budgets] == pytest.approx(expected, rel=0.03)
        assert {budget.width for budget in budgets} == {TINY.width}


def test_a_client_alone_knows_its_own_images_only(bench: Workbench) -> None:
    trainings = {rival.name: rival.trainings(bench) for rival in RIVALS if rival.name.startswith("isolated")}
    assert len(trainings) == 3
    # With equal updates it is the whole model of the sweep over the cut, trained once for both.
    assert trainings[EQUAL_UPDATES.name] == trainings_at(bench, 1.0)
    names = [client.name for client in bench.federation.clients]
    for of_rival in trainings.values():
        assert [t.client for t in of_rival if isinstance(t, LocalTraining)] == names * 3
        assert {t.cut_ratio for t in of_rival if isinstance(t, LocalTraining)} == {1.0}


def test_claims_follow_from_the_spread() -> None:
    qualities = {rival.name: quality(5.0, 5.1, 4.9) for rival in LINEUP}
    qualities[DEVICE_BUDGET.name] = quality(9.0, 9.1, 8.9)
    qualities["central model"] = quality(1.0, 1.1, 0.9)
    qualities["double noising"] = quality(2.0, 6.0, 8.0)
    fids = [f for f in baselines.findings(qualities) if f.text.startswith("FID against held-out images")]
    claims = [f.text for f in fids if f.weight is Weight.CLAIM]
    assert len(claims) == 2
    assert ": worse than CollaFuse Edge" in claims[0]
    assert claims[0].endswith(": isolated, a device's budget (9.00 ± 0.10).")
    assert ": better than CollaFuse Edge" in claims[1]
    assert claims[1].endswith(": central model (1.00 ± 0.10).")
    undecided = " ".join(f.text for f in fids if f.weight is Weight.UNDECIDED)
    named = {rival.name for rival in RIVALS if f"{rival.name} (" in undecided}
    assert named == {rival.name for rival in RIVALS} - {DEVICE_BUDGET.name, "central model"}


def test_rivals_of_one_question_share_an_error_rate_and_no_more() -> None:
    """A difference that three comparisons separate and nine would not is claimed in its group of three."""
    qualities = {rival.name: quality(5.0, 5.1, 4.9) for rival in LINEUP}
    qualities[EQUAL_EPOCHS.name] = quality(5.37, 5.27, 5.47)
    fids = [f for f in baselines.findings(qualities) if f.text.startswith("FID against held-out images")]
    first, second = (
        qualities[name].known(Real.HELD_OUT, Figure.FID) for name in (COLLAFUSE.name, EQUAL_EPOCHS.name)
    )
    assert better_of(COLUMNS[Figure.FID], first, second, among=3) == 1
    assert better_of(COLUMNS[Figure.FID], first, second, among=9) == 0
    (claim,) = [f.text for f in fids if f.weight is Weight.CLAIM]
    assert EQUAL_EPOCHS.name in claim


def test_averaging_often_is_held_against_averaging_seldom() -> None:
    qualities = {rival.name: quality(5.0, 5.1, 4.9) for rival in LINEUP}
    qualities[SELDOM.name] = quality(13.0, 13.1, 12.9)
    (found,) = [f for f in baselines.findings(qualities) if "of federated averaging" in f.text]
    assert found.weight is Weight.CLAIM
    assert found.text.startswith(
        "FID of federated averaging: better than federated averaging, every 25 updates"
    )


def test_an_agreement_that_nobody_judged_is_not_spoken_of() -> None:
    qualities = {rival.name: quality(5.0, 5.1, 4.9) for rival in LINEUP}
    assert not [f for f in baselines.findings(qualities) if "agreement" in f.text]
    judged = {name: quality(5.0, 5.1, 4.9, agreement=0.8) for name in qualities}
    assert [f for f in baselines.findings(judged) if "agreement" in f.text]


def _silent(done: int, of: int, loss: float) -> None:
    del done, of, loss
