"""The experiment on asking, from trainings to outcome, with networks too small to answer anything."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from evaluation.conditioning.judging import train_judge
from evaluation.errors import TextError
from evaluation.experiments.conditioning.study import (
    BOTH,
    HEAD_ONLY,
    STRONG,
    Study,
    asked_budget,
    cases,
    hand_overs,
    phantom_plan,
)
from evaluation.experiments.conditioning.suite import images_for_prompt, measure, trainings
from evaluation.reporting.outcome import Outcome, Weight
from evaluation.running.federation import FederationPlan
from evaluation.running.trainings import name_of
from evaluation.running.workbench import Setting, Workbench

PROMPT = "a small lesion on the left"


@pytest.fixture(scope="module")
def asked_bench(tmp_path_factory: pytest.TempPathFactory, bench: Workbench) -> Workbench:
    design = replace(bench.design, cuts=(0.0, 0.4, 0.8, 1.0))
    plan = replace(bench.setting.plan, limit=120)
    return Workbench(Setting(design, plan, tmp_path_factory.mktemp("asked"), prompts=(PROMPT,)))


@pytest.fixture(scope="module")
def outcome(asked_bench: Workbench) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        # The judge as it is, after fewer steps.
        patch.setattr("evaluation.experiments.conditioning.study.train_judge", partial(train_judge, steps=15))
        told: list[tuple[int, int, str]] = []
        made = measure(asked_bench, lambda *part: told.append(part))
    assert [done for done, _, _ in told] == list(range(told[0][1]))
    return made


def test_one_backbone_and_one_head_a_seed_serve_every_case(asked_bench: Workbench) -> None:
    found = trainings(asked_bench)
    assert len({name_of(each, asked_bench.federation) for each in found}) == len(found) == 6
    assert [each.cut_ratio for each in found[:2]] == [0.4, 0.8]  # type: ignore[attr-defined]
    assert hand_overs(asked_bench.design) == (0.4, 0.8)


def test_what_can_be_asked_is_trained_for_longer_than_the_networks_of_other_experiments(
    asked_bench: Workbench,
) -> None:
    design = asked_bench.design
    backbone, head = Study(asked_bench).trainings(0)
    assert (backbone.total_updates, head.total_updates) == (4 * design.updates, 4 * design.head_updates)
    assert backbone.budget.batch_size == head.budget.batch_size == design.batch_size // 2
    assert asked_budget(replace(backbone.budget, batch_size=1)).batch_size == 1


def test_every_hand_over_steps_with_fresh_noise_whatever_the_design_says(asked_bench: Workbench) -> None:
    study = Study(asked_bench)
    assert study.design.sampler == "ddim"
    for cut in hand_overs(study.design):
        assert study.chain(cut).steps == replace(asked_bench.steps(), sampler="ddpm")


def test_every_case_is_measured_once(asked_bench: Workbench) -> None:
    listed = cases(asked_bench.design)
    assert len(listed) == len(set(listed)) == 14
    assert {case.cut_ratio for case in listed} == {0.4, 0.8}


def test_tables_name_ways_and_sides_and_end_with_real_images(outcome: Outcome) -> None:
    ways, who = outcome.tables
    assert [row[0] for row in ways.rows] == [
        "nobody",
        *["by label"] * 2,
        *["by attributes"] * 2,
        *["in words"] * 3,
        "real images",
    ]
    assert [row[1] for row in who.rows] == ["nobody", "server only", "head only", "server and head"] * 2
    assert {row[0] for row in who.rows} == {"0.4", "0.8"}


def test_controls_come_first_and_the_hidden_prompt_is_hidden(outcome: Outcome) -> None:
    controls = [f for f in outcome.findings if f.weight in {Weight.CONTROL, Weight.FAILED_CONTROL}]
    assert len(controls) == 5
    assert list(outcome.findings[:5]) == controls
    assert controls[3].weight is Weight.CONTROL
    assert "equal to the bit" in controls[3].text


def test_pictures_are_of_every_kind_and_of_the_prompts(outcome: Outcome) -> None:
    grid, prompted = outcome.pictures
    assert len(grid.columns) == 7
    assert len(grid.rows) == 5
    assert all(len(row.images) == 7 for row in grid.rows)
    assert [row.title for row in prompted.rows] == [
        f"{PROMPT} (server and head asked)",
        f"{PROMPT} (head only)",
    ]


def test_images_of_a_prompt_depend_on_it_and_on_the_seed_alone(
    asked_bench: Workbench, outcome: Outcome
) -> None:
    first = images_for_prompt(asked_bench, PROMPT, count=2, guidance=HEAD_ONLY, cut_ratio=0.8)
    assert first.shape == (2, 1, 16, 16)
    assert np.abs(first).max() <= 1
    again = images_for_prompt(asked_bench, PROMPT, count=2, guidance=HEAD_ONLY, cut_ratio=0.8)
    np.testing.assert_array_equal(first, again)
    other = images_for_prompt(asked_bench, PROMPT, count=2, guidance=HEAD_ONLY, cut_ratio=0.8, seed=1)
    assert np.abs(first - other).max() > 1e-3
    assert BOTH.server == STRONG


def test_a_prompt_in_unknown_words_stops_it_before_any_training(asked_bench: Workbench) -> None:
    setting = replace(asked_bench.setting, prompts=("a tumour",))
    with pytest.raises(TextError, match="tumour"):
        trainings(Workbench(setting))
    with pytest.raises(TextError, match="tumour"):
        images_for_prompt(asked_bench, "a tumour")


def test_an_evaluation_of_phantoms_is_asked_about_its_own(asked_bench: Workbench) -> None:
    own = replace(asked_bench.setting, plan=FederationPlan("phantoms64", "labels", 2, 24, 90, seed=4))
    plan = phantom_plan(own)
    assert (plan.source, plan.image_size, plan.limit, plan.seed) == ("phantoms64", 24, 90, 4)
    assert plan.partition is None
    wide = replace(asked_bench.setting, design=replace(asked_bench.design, width=32))
    assert phantom_plan(wide).image_size is None
    assert phantom_plan(asked_bench.setting).image_size == 16


def test_what_the_server_makes_unasked_is_made_once_for_every_head(asked_bench: Workbench) -> None:
    study = Study(asked_bench)
    silent = [case for case in cases(study.design) if case.guidance.server == 0 and case.cut_ratio == 0.4]
    assert len(silent) == 2
    first, second = (study.images(case, 0) for case in silent)
    assert len(study._at_cut) == 1
    assert first.shape == second.shape == (16, 1, 16, 16)
