"""The experiment on release policies: its figures, and that its sentences follow from them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffusion.privacy import epsilon
from evaluation.experiments.releases.account import RELEASES, Policy, account, policies
from evaluation.experiments.releases.reconstructions import (
    Reconstruction,
    attacked,
    blind_mse,
    known_to_the_attacker,
    reconstructed,
)
from evaluation.experiments.releases.suite import (
    finding_on_averaging,
    finding_on_blindness,
    findings_on_cost,
    findings_on_disclosure,
    findings_on_fidelity,
    measure,
    trainings,
)
from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.outcome import Weight, read_outcome, to_json
from evaluation.running.federation import Federation
from evaluation.running.trainings import BackboneTraining, Budget
from evaluation.running.workbench import Workbench
from tests.evaluation.experiments.made_up import quality
from tests.evaluation.tiny import TINY

ONE, MANY, PAIRS = Policy(1), Policy(16), Policy(12, pairs=True)
NEAR, FAR = spread((1.0, 1.1, 0.9)), spread((3.0, 3.1, 2.9))


def reconstruction(error: Spread, ratio: float = 1.0) -> Reconstruction:
    return Reconstruction(error, 1.0, ratio, error, spread((10.0, 11.0)), 20_000, np.zeros((2, 1, 4, 4)))


def test_the_outcome_can_be_kept_and_its_controls_hold(bench: Workbench, tmp_path: Path) -> None:
    told: list[int] = []
    outcome = measure(bench, lambda done, of, words: told.append(done))
    path = tmp_path / "outcome.json"
    path.write_text(to_json(outcome), encoding="utf-8")

    assert read_outcome(path) == outcome
    assert told == list(range(2 * len(policies(TINY, bench.federation))))
    weights = [finding.weight for finding in outcome.findings]
    assert weights.count(Weight.CONTROL) == len(RELEASES) + 2
    assert Weight.FAILED_CONTROL not in weights
    assert sum(len(row.images) for block in outcome.pictures for row in block.rows) <= 42


def test_one_release_is_the_training_that_other_experiments_share(bench: Workbench) -> None:
    wanted = trainings(bench)
    assert all(BackboneTraining(0.4, Budget.backbone(TINY), seed) in wanted for seed in TINY.seeds)
    assert len(wanted) == 3 * (len(RELEASES) + 1) + 3 * len(bench.federation.clients)


def test_a_claim_needs_figures_that_separate() -> None:
    near, far, wide = quality(1.0, 1.1, 0.9), quality(3.0, 3.1, 2.9), quality(1.0, 2.0, 3.0)
    apart = findings_on_fidelity({ONE: near, MANY: far})
    alike = findings_on_fidelity({ONE: near, MANY: wide})
    assert [finding.weight for finding in apart] == [Weight.CLAIM, Weight.CLAIM]
    assert "worse than K = 1" in apart[0].text
    assert [finding.weight for finding in alike] == [Weight.UNDECIDED, Weight.UNDECIDED]


def test_what_is_given_away_is_claimed_only_where_errors_separate() -> None:
    found = {
        ONE: reconstruction(FAR),
        MANY: reconstruction(NEAR),
        PAIRS: reconstruction(spread((2.0, 3.0, 4.0))),
    }
    assert [finding.weight for finding in findings_on_disclosure(found)] == [Weight.CLAIM, Weight.UNDECIDED]


@pytest.mark.parametrize(("ratio", "weight"), [(1.03, Weight.CONTROL), (0.95, Weight.FAILED_CONTROL)])
def test_averaging_against_arithmetic_is_a_control_that_can_fail(ratio: float, weight: Weight) -> None:
    assert finding_on_averaging(MANY, reconstruction(NEAR, ratio)).weight is weight


def test_an_attack_that_is_no_better_than_blind_fails_its_control() -> None:
    assert finding_on_blindness(reconstruction(NEAR), FAR).weight is Weight.CONTROL
    assert finding_on_blindness(reconstruction(FAR), NEAR).weight is Weight.FAILED_CONTROL


def test_the_account_grows_as_releases_do_and_a_pair_costs_a_release(federation: Federation) -> None:
    one, many = (account(federation, 0.4, policy, ("float32", "float16")) for policy in (ONE, Policy(12)))
    pairs = account(federation, 0.4, PAIRS, ("float32", "float16"))

    assert many.sent_bytes == {dtype: 12 * count for dtype, count in one.sent_bytes.items()}
    assert pairs.mu == many.mu == pytest.approx(one.mu * np.sqrt(12))
    assert one.epsilon == pytest.approx(epsilon(8.0, 20, federation.schedule, 1e-5), rel=1e-9)
    # Twice as many values of two bytes; a float32 x_t comes with a float16 noise.
    assert pairs.sent_bytes["float16"] / many.sent_bytes["float16"] == pytest.approx(2, rel=0.1)
    assert pairs.sent_bytes["float32"] / many.sent_bytes["float32"] == pytest.approx(1.5, rel=0.1)
    uploads, prices, meaning = findings_on_cost({ONE: one, PAIRS: pairs}, "digits")
    assert "pairs, 12 epochs: 18." in uploads.text
    assert f"K = 1: {one.epsilon:.3g}" in prices.text
    assert {each.weight for each in (uploads, prices, meaning)} == {Weight.FACT}


def test_more_releases_give_more_away_and_pairs_give_what_as_many_releases_do(federation: Federation) -> None:
    targets = attacked(federation)
    one, many, pairs = (
        reconstructed(federation, 0.4, policy, targets, seed=0) for policy in (ONE, Policy(12), PAIRS)
    )
    assert many.linear_mse.mean < one.linear_mse.mean < blind_mse(targets).mean
    assert (
        many.linear_mse.mean < pairs.linear_mse.mean < one.linear_mse.mean
    )  # float16 hides the pairs near T
    assert pairs.linear_mse.mean < 1.3 * many.linear_mse.mean


def test_a_client_alone_is_attacked_with_what_it_held_out(federation: Federation) -> None:
    alone = replace(federation, clients=federation.clients[:1])
    (target,) = attacked(alone)
    assert target.prior.images == len(federation.clients[0].held_out)
    assert (known_to_the_attacker(alone), known_to_the_attacker(federation)) == (
        "the client's own held-out images",
        "other clients' images",
    )
