"""The experiment on asking with a T5 that reads captions and prompts, from processes of its own to the report."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from evaluation.cli import app
from evaluation.conditioning.judging import train_judge
from evaluation.conditioning.t5_directory import T5Directory
from evaluation.errors import TextError
from evaluation.experiments.conditioning.study import HEAD_ONLY, Study
from evaluation.experiments.conditioning.suite import images_for_prompt, measure, trainings
from evaluation.reporting.outcome import Outcome
from evaluation.running import runner
from evaluation.running.trainings import name_of
from evaluation.running.workbench import Setting, Workbench
from tests.evaluation.tiny_t5 import hide_transformers, save_tiny_t5

PROMPT = "a tiny tumour on the left"


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> T5Directory:
    return T5Directory.at(save_tiny_t5(tmp_path_factory.mktemp("t5")))


@pytest.fixture(scope="module")
def setting(bench: Workbench, t5: T5Directory, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    plan = replace(bench.setting.plan, limit=120)
    folder = tmp_path_factory.mktemp("asked")
    return Setting(bench.design, plan, folder, prompts=(PROMPT,), text_encoder=t5)


@pytest.fixture(scope="module")
def outcome(setting: Setting) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        # The judge as it is, after fewer steps.
        patch.setattr("evaluation.experiments.conditioning.study.train_judge", partial(train_judge, steps=15))
        return measure(Workbench(setting), lambda *_: None)


def test_a_process_of_its_own_opens_the_encoder_and_trains_what_is_trained_here(setting: Setting) -> None:
    here = Workbench(setting)
    first = trainings(here)[0]
    with runner._pool(setting, 1, lambda part: None) as pool:
        pool.submit(runner._train, first).result()
    assert here.networks.has(first)
    kept, again = here.networks.trained(first), first.train(here.federation, lambda *_: None)
    assert {name for name in kept.extra if name.startswith("texts.")} >= {
        "texts.mean",
        "texts.project.1.weight",
    }
    for name, weight in again.extra.items():
        torch.testing.assert_close(kept.extra[name], weight, rtol=1e-4, atol=1e-5)


def test_captions_are_heard_in_training(setting: Setting) -> None:
    """What the projection learns comes from captions alone."""
    head = Study(Workbench(setting)).trainings(0)[1]
    longer = replace(head, budget=replace(head.budget, updates=5, batch_size=48, learning_rate=1e-2))
    before, after = (
        each.train(Workbench(setting).federation, lambda *_: None).extra
        for each in (replace(longer, budget=replace(longer.budget, learning_rate=0.0)), longer)
    )
    assert (after["texts.project.1.weight"] - before["texts.project.1.weight"]).abs().max() > 1e-3
    assert torch.equal(after["texts.mean"], before["texts.mean"])


def test_the_report_names_the_encoder_and_the_words_that_no_caption_has(
    outcome: Outcome, t5: T5Directory
) -> None:
    assert t5.name in outcome.method
    assert "a projection that learns beside the network" in outcome.method
    words = outcome.limits[0]
    assert "captions come from 19 words: a, abnormal, brain" in words
    assert words.endswith("The prompts also say: tiny, tumour.")
    assert [row.title for row in outcome.pictures[1].rows] == [
        f"{PROMPT} (server and head asked)",
        f"{PROMPT} (head only)",
    ]
    assert len([row for row in outcome.tables[0].rows if row[0] == "in words"]) == 3


def test_another_prompt_is_another_image_and_needs_no_word_of_the_captions(
    setting: Setting, outcome: Outcome
) -> None:
    bench = Workbench(setting)
    asked = partial(images_for_prompt, bench, count=2, guidance=HEAD_ONLY)
    first, other = asked("a tiny tumour"), asked("nil")
    assert np.abs(first - other).max() > 1e-6
    np.testing.assert_array_equal(first, asked("a tiny tumour"))
    with pytest.raises(TextError, match="no token for 3"):
        asked("3 tumours")


def test_two_encoders_never_share_a_network_and_one_that_was_moved_finds_its_own(
    setting: Setting, t5: T5Directory, tmp_path: Path
) -> None:
    other = T5Directory.at(save_tiny_t5(tmp_path / "other", seed=1))
    moved = T5Directory(tmp_path / "moved", t5.digest)
    names = [
        [name_of(each, bench.federation) for each in Study(bench).trainings(0)]
        for bench in (Workbench(replace(setting, text_encoder=each)) for each in (None, t5, other, moved))
    ]
    assert names[1] == names[3]
    assert len({name for pair in names for name in pair}) == 6


def test_an_encoder_that_cannot_be_opened_stops_it_before_any_training(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = T5Directory.at(save_tiny_t5(tmp_path / "unread", seed=2))
    plan = replace(setting.plan, limit=240)
    chosen = replace(setting, plan=plan, folder=tmp_path / "out", text_encoder=unread)
    hide_transformers(monkeypatch)
    with pytest.raises(
        TextError, match=r"^a T5 encoder needs transformers: pip install 'collafuse-edge\[text\]'"
    ):
        runner.evaluate(chosen, ["conditioning"], workers=1, on_part=lambda part: None)
    assert list((tmp_path / "out" / "networks").iterdir()) == []


def test_a_prompt_that_it_cannot_read_stops_it_too(setting: Setting) -> None:
    with pytest.raises(TextError, match=r"--prompt: the T5 has no token for \(!\)"):
        trainings(Workbench(replace(setting, prompts=("a lesion (!)",))))


def test_the_command_hands_the_encoder_on(t5: T5Directory, tmp_path: Path) -> None:
    words = ["conditioning", "--quick", "--limit", "400", "--prompt", "3 tumours", "--out", str(tmp_path)]
    refused = CliRunner().invoke(app, [*words, "--text-encoder", str(t5.path)]).exception
    assert isinstance(refused, TextError)
    assert str(refused).startswith("--prompt: the T5 has no token for 3 in '3 tumours'")
