"""The experiment on hand-off refinement: its figures, and that its sentences follow from them."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.experiments.refinement.measures import (
    BEFORE,
    CONTROL,
    FAR,
    NEAR,
    VARIANTS,
    Answers,
    head_evaluations,
    refined_head,
    run_client,
)
from evaluation.experiments.refinement.suite import (
    finding_on_learning,
    findings_on_fidelity,
    findings_on_new_images,
    measure,
    trainings,
)
from evaluation.reporting.outcome import Weight, read_outcome, to_json
from evaluation.running.trainings import BackboneTraining, Budget, LocalTraining
from evaluation.running.workbench import Workbench
from tests.evaluation.experiments.made_up import quality
from tests.evaluation.tiny import TINY


def answers(refined: tuple[float, ...], plain: tuple[float, ...]) -> list[Answers]:
    """One for each seed, alike on training and on held-out images."""
    each = [{NEAR: a, CONTROL: b} for a, b in zip(refined, plain, strict=True)]
    return [Answers(errors, errors) for errors in each]


def test_the_outcome_can_be_kept_and_the_heads_with_it(bench: Workbench, tmp_path: Path) -> None:
    outcome = measure(bench, lambda *_: None)
    path = tmp_path / "outcome.json"
    path.write_text(to_json(outcome), encoding="utf-8")

    assert read_outcome(path) == outcome
    assert len(outcome.findings) >= 2 + 2 + 3 * len(head_evaluations(bench))
    assert sum(len(row.images) for block in outcome.pictures for row in block.rows) <= 40
    assert all(
        bench.networks.has(refined_head(bench, client.name, reach, seed))
        for client in bench.federation.clients
        for reach in (0.0, 0.25, 1.0)
        for seed in TINY.seeds
    )


def test_it_needs_only_networks_that_other_experiments_share(bench: Workbench) -> None:
    wanted = trainings(bench)
    assert BackboneTraining(0.4, Budget.backbone(TINY), 0) in wanted
    assert LocalTraining(bench.federation.clients[0].name, 0.4, Budget.head(TINY), 0) in wanted
    assert len(wanted) == len(TINY.seeds) * (1 + len(bench.federation.clients))


def test_the_head_before_finishes_as_every_experiment_does(bench: Workbench) -> None:
    client = bench.federation.clients[0]
    shown = run_client(bench, client, 0).shown[BEFORE, TINY.head_steps]
    backbone, head = (
        bench.network(training) for training in refined_head(bench, client.name, 0.25, 0).grows_from()
    )
    made = bench.generated(client, backbone, head, TINY.main_cut, 0).as_images()
    np.testing.assert_allclose(shown, made.images[: len(shown)], atol=1e-6)


def test_help_is_claimed_only_where_figures_separate() -> None:
    base = quality(2.0, 2.1, 1.9)
    found = findings_on_fidelity(
        {BEFORE: base, CONTROL: base, NEAR: quality(1.0, 1.1, 0.9), FAR: quality(1.5, 2.5, 2.0)}, 1
    )
    assert [finding.weight for finding in found[:2]] == [Weight.CLAIM, Weight.UNDECIDED]
    assert {finding.weight for finding in found[2:]} == {
        Weight.UNDECIDED
    }  # all precisions and recalls are alike
    assert NEAR.name in found[0].text
    assert "better than plain loss" in found[0].text
    assert "1 head evaluation:" in found[0].text
    assert FAR.name in found[1].text
    harm = findings_on_fidelity(dict.fromkeys(VARIANTS, base) | {FAR: quality(9.0, 9.1, 8.9)}, 6)
    assert "worse than plain loss" in harm[0].text


@pytest.mark.parametrize(
    ("plain", "weight"), [((0.2, 0.2, 0.2), Weight.CONTROL), ((0.2, 0.2, 0.09), Weight.FAILED_CONTROL)]
)
def test_a_head_that_has_not_learned_fails_the_control(plain: tuple[float, ...], weight: Weight) -> None:
    assert finding_on_learning(NEAR, answers((0.1, 0.11, 0.1), plain)).weight is weight


def test_new_images_are_claimed_only_where_errors_separate() -> None:
    (apart,) = findings_on_new_images(NEAR, answers((0.1, 0.11, 0.1), (0.2, 0.21, 0.2)))
    (alike,) = findings_on_new_images(NEAR, answers((0.1, 0.2, 0.3), (0.2, 0.21, 0.2)))
    assert apart.weight is Weight.CLAIM
    assert alike.weight is Weight.UNDECIDED
