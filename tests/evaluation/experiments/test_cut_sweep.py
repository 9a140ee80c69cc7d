from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.experiments.sweep import suite as cut_sweep
from evaluation.experiments.sweep.disclosure import Controls, attacker_of, gain_of_own, nearest_mse
from evaluation.experiments.sweep.findings import control_findings
from evaluation.experiments.sweep.suite import released_to_server
from evaluation.measuring.chain import backbone_at, proportional_steps, trainings_at
from evaluation.measuring.verdicts import Named, Pair, against, pairwise
from evaluation.metrics.disclosure import Prior, reconstruct, squared_errors
from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.outcome import Better, Column, Outcome, Weight, read_outcome, to_json
from evaluation.running.design import Design
from evaluation.running.workbench import Workbench

DISTANCE, SHARE = Column("FID", "", Better.LESS, 1), Column("agreement", "%", Better.MORE, 0, 100.0)


def around(mean: float, scatter: float = 0.01) -> Spread:
    return spread((mean - scatter, mean, mean + scatter))


@pytest.fixture(scope="module")
def outcome(bench: Workbench) -> Outcome:
    return cut_sweep.measure(bench, lambda done, of, words: None)


def test_the_outcome_has_every_cut_and_survives_its_file(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(to_json(outcome), encoding="utf-8")
    assert read_outcome(path) == outcome
    fidelity = outcome.tables[0]
    assert [row[0] for row in fidelity.rows] == ["c = 0", "c = 0.4", "c = 1", "real against real"]
    assert all(isinstance(cell, Spread) and cell.n == 3 for row in fidelity.rows[:-1] for cell in row[1:])
    assert sum(len(row.images) for part in outcome.pictures for row in part.rows) <= cut_sweep.PICTURES


def test_either_side_alone_is_measured_at_every_inner_cut(outcome: Outcome) -> None:
    tables = [table for table in outcome.tables if table.title.startswith("Either side alone")]
    assert [len(table.rows) for table in tables] == [5, 5]
    assert all(
        isinstance(cell, Spread) and cell.n == 3 for table in tables for row in table.rows for cell in row[2:]
    )
    chart = next(chart for chart in outcome.charts if "either side alone" in chart.title)
    assert [len(series.x) for series in chart.series] == [3, 1, 1, 1, 1]
    assert sum("alone, " in finding.text for finding in outcome.findings) >= 6


def test_nothing_is_trained_that_was_not_announced(bench: Workbench, outcome: Outcome) -> None:
    assert len(cut_sweep.trainings(bench)) == 3 + (3 + 6) + 6
    assert all(bench.networks.has(training) for training in cut_sweep.trainings(bench))


def test_who_owns_no_step_computes_nothing(outcome: Outcome) -> None:
    columns = ("server", "device")
    costs = next(table for table in outcome.tables if table.title == "What an image costs")
    operations = [[c.name for c in costs.columns].index(f"operations, {side}") for side in columns]
    by_cut = {row[0]: [row[index] for index in operations] for row in costs.rows}
    assert by_cut["c = 0"][1] == 0.0
    assert by_cut["c = 1"][0] == 0.0
    assert by_cut["c = 0"][0] == by_cut["c = 1"][1]


def test_it_is_said_what_else_is_in_measured_energy(outcome: Outcome) -> None:
    notes = [table.note for table in outcome.tables if "Energy is" in table.note]
    assert len(notes) == 2
    assert all("estimated at 10 W" in note or "measured of the whole processor" in note for note in notes)


def test_the_server_holds_the_image_at_0_nothing_at_1_and_releases_between(bench: Workbench) -> None:
    client = bench.federation.clients[0]
    held = released_to_server(bench, client, 0.0)
    assert held is not None
    np.testing.assert_array_equal(held[2], client.train.images)
    assert released_to_server(bench, client, 1.0) is None
    between = released_to_server(bench, client, 0.4)
    assert between is not None
    for index, seed in enumerate(bench.design.seeds):
        backbone = backbone_at(bench.design, 0.4, seed)
        assert backbone is not None
        learned_from, _ = backbone.samples(bench.federation)
        np.testing.assert_array_equal(between[index], learned_from[: len(client.train)])


def test_noisier_releases_are_further_in_all_figures(bench: Workbench) -> None:
    client = bench.federation.clients[0]
    attacker = attacker_of(bench.federation, client, bench.extractor)
    near, far = (
        attacker.released(
            bench.federation.released(client, cut, seed=0)[0], float(bench.schedule.alpha_bar[t]), 0
        )
        for cut, t in ((0.1, 5), (0.8, 40))
    )
    assert near.kid < far.kid
    assert near.mse < far.mse
    assert near.rebuilt_mse < far.rebuilt_mse < attacker.controls(0.5).blind_mse * 1.1


def test_the_nearest_image_is_found_as_by_looking_at_each() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 1, 3, 3)), rng.standard_normal((7, 1, 3, 3))
    expected = np.mean([min(((x - y) ** 2).mean() for y in b) for x in a])
    assert nearest_mse(a, b) == pytest.approx(expected)
    assert nearest_mse(b[:3], b) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        (Controls(1e-12, 0.3, 0.003, 0.001, 0.1), [Weight.CONTROL, Weight.CONTROL]),
        (Controls(0.1, 0.3, 0.003, 0.001, 0.1), [Weight.FAILED_CONTROL, Weight.CONTROL]),
        (Controls(1e-12, 0.3, 0.005, 0.001, 0.1), [Weight.CONTROL, Weight.FAILED_CONTROL]),
    ],
)
def test_controls_fail_when_they_must(controls: Controls, expected: list[Weight]) -> None:
    assert [finding.weight for finding in control_findings([controls])] == expected


def test_noise_says_nothing_of_its_image_however_far_the_others_are(bench: Workbench) -> None:
    """On images unlike the attacker's, noise errs less than a blind guess, which is no knowledge; a release is."""
    own, other = bench.federation.clients
    dark = replace(other, train=replace(other.train, images=other.train.images * 0.1 - 0.9))
    apart = replace(bench.federation, clients=(own, dark))
    controls = [attacker_of(apart, client, bench.extractor).controls(0.5) for client in apart.clients]
    assert [finding.weight for finding in control_findings(controls)] == [Weight.CONTROL] * 2
    clean, prior = own.train.images, attacker_of(apart, own, bench.extractor).prior
    noise = np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    errors = [
        squared_errors(clean, guess).mean()
        for guess in (reconstruct(noise, 0.5, prior), prior_mean(prior, clean))
    ]
    assert errors[0] < errors[1]
    released = bench.federation.released(own, 0.4, seed=0)[0]
    gain, error = gain_of_own(reconstruct(released, float(bench.schedule.alpha_bar[20]), prior), clean)
    assert gain > 4 * error


def prior_mean(prior: Prior, like: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.broadcast_to(prior.mean.reshape(like.shape[1:]), like.shape)


def test_only_what_is_separated_is_claimed() -> None:
    rivals = [Named("near", around(1.0)), Named("far", around(9.0)), Named("same", around(5.1, 0.5))]
    better, worse, undecided = against(DISTANCE, rivals, Named("this", around(5.0, 0.5)))
    assert (better.weight, worse.weight, undecided.weight) == (Weight.CLAIM, Weight.CLAIM, Weight.UNDECIDED)
    assert "near (1.0 ± 0.0)" in better.text
    assert "better" in better.text
    assert "far" in worse.text
    assert "same" in undecided.text


def test_comparisons_made_together_share_their_error_rate() -> None:
    """What would be claimed of one rival alone is not claimed of one among twenty."""
    one, reference = Named("one", around(4.9, 0.03)), Named("this", around(5.0, 0.03))
    assert [f.weight for f in against(DISTANCE, [one], reference)] == [Weight.CLAIM]
    assert [f.weight for f in against(DISTANCE, [one] * 20, reference)] == [Weight.UNDECIDED]


def test_pairs_are_told_by_the_places_where_they_are_separated() -> None:
    pairs = [
        Pair("here", around(1.0), around(5.0)),
        Pair("there", around(9.0), around(5.0)),
        Pair("elsewhere", around(5.0), around(5.005)),
    ]
    better, worse, undecided = pairwise(DISTANCE, pairs, {1: "better at", -1: "worse at", 0: "open at"})
    assert better.text == "better at: here (1.0 ± 0.0 against 5.0 ± 0.0)."
    assert "there" in worse.text
    assert "elsewhere" in undecided.text
    assert [f.weight for f in (better, worse, undecided)] == [Weight.CLAIM, Weight.CLAIM, Weight.UNDECIDED]


def test_of_a_share_more_is_better() -> None:
    (finding,) = against(SHARE, [Named("high", around(0.9))], Named("low", around(0.5)))
    assert "better than low (50 ± 1 %) beyond the spread over seeds: high (90 ± 1 %)." in finding.text


def test_evaluations_divided_by_the_cut_are_as_many_at_every_cut() -> None:
    design = Design(server_steps=12, head_steps=6)
    plans = {cut: proportional_steps(design, cut) for cut in design.cuts}
    assert all(p.server_steps + p.head_steps == 18 for c, p in plans.items() if 0 < c < 1)
    assert [plans[cut].head_steps for cut in (0.1, 0.5, 0.9)] == [2, 9, 16]
    assert plans[0.0].server_steps == plans[1.0].head_steps == 18


def test_the_ends_of_the_sweep_train_one_side_only(bench: Workbench) -> None:
    assert {training.title for training in trainings_at(bench, 0.0)} == {"backbone at cut 0"}
    assert all(training.title.endswith("alone") for training in trainings_at(bench, 1.0))
