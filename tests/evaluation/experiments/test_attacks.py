"""All attacks on a federation of 240 digits, against backbones of three updates: that they are made, not that they succeed."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.attacks.attribute_inference import COIN
from evaluation.data.images import concatenate
from evaluation.errors import DataError
from evaluation.experiments.attacks import suite as attacks
from evaluation.experiments.attacks.measures import (
    LOSS,
    Memberships,
    chance_of_attributes,
    overfitted_asked,
)
from evaluation.experiments.attacks.membership_findings import about_membership
from evaluation.experiments.attacks.scene import Scene, trainings_of
from evaluation.experiments.attacks.trainings import (
    MEMORISED_IMAGES,
    MemorisedTraining,
    ReconstructorTraining,
)
from evaluation.reporting.outcome import Outcome, Weight, read_outcome, to_json
from evaluation.running.trainings import Budget
from evaluation.running.workbench import Setting, Workbench


@pytest.fixture(scope="module")
def scene(bench: Workbench) -> Scene:
    return Scene(bench)


@pytest.fixture(scope="module")
def outcome(bench: Workbench) -> tuple[Outcome, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    return attacks.measure(bench, lambda done, of, words: told.append((done, of))), told


def test_the_outcome_can_be_kept_and_read(
    outcome: tuple[Outcome, list[tuple[int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("kept") / "attacks.json"
    path.write_text(to_json(outcome[0]), encoding="utf-8")
    assert read_outcome(path) == outcome[0]
    assert (len(outcome[0].tables), len(outcome[0].charts)) == (5, 5)
    assert sum(len(row.images) for part in outcome[0].pictures for row in part.rows) <= 40


def test_progress_ends_where_it_said(outcome: tuple[Outcome, list[tuple[int, int]]]) -> None:
    told = outcome[1]
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][0] == told[-1][1]


def test_every_attack_has_controls_and_those_without_a_network_come_out_as_they_must(
    outcome: tuple[Outcome, list[tuple[int, int]]],
) -> None:
    weights = {f.text.split(", control")[0]: f.weight for f in outcome[0].findings if ", control" in f.text}
    assert set(weights) == {
        "Reconstruction",
        "Averaging",
        "Attribute inference",
        "Membership",
        "Linkage",
    }
    passed = [f.text for f in outcome[0].findings if f.weight is Weight.CONTROL]
    for beginning in (
        "Reconstruction, control that must succeed",
        "Averaging, control that must succeed",
        "Averaging, control that must fail",
        "Attribute inference, control that must succeed",
        "Attribute inference, controls that must fail",
        "Membership, control that must fail",
        "Linkage, control that must succeed",
        "Linkage, control that must fail",
    ):
        assert any(text.startswith(beginning) for text in passed), beginning


def test_everything_asked_for_was_announced(bench: Workbench) -> None:
    announced = attacks.trainings(bench)
    assert len({training.title for training in announced}) == 5
    assert all(bench.networks.has(training) for training in announced)


def test_chance_is_of_the_questions_that_are_asked(scene: Scene, outcome: tuple[Outcome, object]) -> None:
    chances = chance_of_attributes(scene)
    table = next(t for t in outcome[0].tables if t.title.startswith("Attribute inference"))
    assert set(chances) == {column.name for column in table.columns[1:]}
    # One label in ten scatters more than a coin: √((n+1)/12pq) with p, q the images of either answer.
    n = len(scene.attacked(0).rows)
    assert chances[COIN] == pytest.approx((n + 1) ** 0.5 / (12 * (n / 2) ** 2) ** 0.5, rel=0.05)
    assert chances["label"] > 1.3 * chances[COIN]


@pytest.mark.parametrize("seed", [0, 1])
def test_attacked_is_what_the_backbone_of_the_seed_was_trained_on(scene: Scene, seed: int) -> None:
    backbone = next(t for t in trainings_of(scene.bench.design)[0] if (t.cut_ratio, t.seed) == (0.4, seed))
    learned_from, _ = backbone.samples(scene.bench.federation)
    attacked = scene.attacked(seed)
    np.testing.assert_array_equal(attacked.released(0.4)[0], learned_from[attacked.rows])
    np.testing.assert_array_equal(scene.held(0.4, seed), learned_from)


def test_what_is_attacked_is_what_the_server_was_sent(scene: Scene) -> None:
    attacked, pooled = scene.attacked(0), scene.bench.federation.pooled
    np.testing.assert_array_equal(attacked.truth.images, pooled.images[attacked.rows])
    np.testing.assert_array_equal(attacked.truth.labels, pooled.labels[attacked.rows])
    np.testing.assert_array_equal(attacked.released(0.4)[0], scene.held(0.4, 0)[attacked.rows])
    first = attacked.first(7)
    np.testing.assert_array_equal(first.released(0.4, 2)[0], scene.held(0.4, 0)[first.rows])
    assert len(first.rows) == 7


def test_every_seed_attacks_other_images_and_none_of_the_attackers_own(scene: Scene) -> None:
    assert set(scene.attacked(0).rows) != set(scene.attacked(1).rows)
    own = {image.tobytes() for image in scene.own.images}
    mine = {image.tobytes() for image in scene.attacked(0).truth.images}
    # Two scans may be alike; an image that is both would make them all alike.
    assert len(own & mine) < 0.1 * len(mine)


def test_the_ends_are_the_controls(scene: Scene) -> None:
    attacked = scene.attacked(2)
    np.testing.assert_array_equal(attacked.released(0.0, 2)[1], attacked.truth.images)
    first, second = attacked.released(1.0, 2)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(first.ravel(), attacked.truth.images.ravel())[0, 1]) < 0.05
    assert not np.array_equal(scene.held(1.0, 2)[attacked.rows], first)


def test_an_overfitted_network_sees_a_few_training_images_and_nothing_else(scene: Scene) -> None:
    federation = scene.bench.federation
    training = MemorisedTraining(0.4, Budget(8, 2, 8, 1e-3), 0)
    members = training.members(federation)
    np.testing.assert_array_equal(members.labels, federation.pooled.labels[training.rows(federation)])
    assert len(members) == MEMORISED_IMAGES
    train = {image.tobytes() for image in concatenate([c.train for c in federation.clients]).images}
    assert {image.tobytes() for image in members.images} <= train


def test_the_images_that_an_overfitted_network_was_not_shown_are_all_the_others(scene: Scene) -> None:
    federation = scene.bench.federation
    training = MemorisedTraining(0.4, Budget(8, 2, 8, 1e-3), 1)
    everything = concatenate((training.members(federation), training.not_shown(federation, 10_000)))
    assert sorted(image.tobytes() for image in everything.images) == sorted(
        image.tobytes() for image in federation.pooled.images
    )
    assert len(training.not_shown(federation, 7)) == 7


@pytest.mark.parametrize(("contrast", "expected"), [(1.0, Weight.CONTROL), (0.5, Weight.FAILED_CONTROL)])
def test_a_division_that_can_be_seen_fails_the_control_of_membership(
    setting: Setting, contrast: float, expected: Weight
) -> None:
    """Held-out images of half the contrast are told from all training images, shown or not."""
    bench = Workbench(setting)
    clients = [
        replace(c, held_out=replace(c.held_out, images=contrast * c.held_out.images))
        for c in bench.federation.clients
    ]
    bench.federation = replace(bench.federation, clients=tuple(clients))
    clean = trainings_of(bench.design)[2][0]
    asked = overfitted_asked(Scene(bench), clean)
    shown, not_shown = ({name: (parts[i],) for name, parts in asked.items()} for i in (0, 1))
    one = Memberships({(LOSS, 0.4): shown[LOSS] * 3}, {LOSS: shown[LOSS][0]}, {}, not_shown)
    (found,) = (f for f in about_membership(one, 0.4) if "control that must fail" in f.text)
    assert found.weight is expected


def test_a_reconstruction_of_what_is_not_hidden_is_refused(scene: Scene) -> None:
    with pytest.raises(DataError, match="nothing is hidden"):
        ReconstructorTraining((0.0, 0.4), Budget(8, 2, 8, 1e-3), 0).train(
            scene.bench.federation, lambda done, of, loss: None
        )
