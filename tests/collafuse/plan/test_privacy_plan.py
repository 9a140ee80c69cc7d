"""The plan for a price in ε: exact figures, the device's own count of them, and plain words where nothing is promised."""

import io
import json
import tomllib

import dp_accounting
import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from collafuse.plan.cli import app
from collafuse.plan.errors import PlanRefused
from collafuse.plan.privacy import PrivacyPlan, PrivacyQuestion, plan_privacy
from collafuse.plan.privacy_words import NO_GUARANTEE, settings_of, show_privacy
from diffusion.privacy import epsilon_of_mu, release
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from edge_agent.settings import EdgeSettings


def planned(epsilon: float = 10.0, **values: object) -> PrivacyPlan:
    return plan_privacy(PrivacyQuestion.of(epsilon=epsilon, **values))


def shown(epsilon: float, columns: int = 100, **values: object) -> str:
    question = PrivacyQuestion.of(epsilon=epsilon, **values)
    console = Console(file=io.StringIO(), width=columns, color_system=None)
    show_privacy(question, plan_privacy(question), console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    return " ".join(" ".join(lines).split())


def test_the_figures_of_a_promise_that_is_worth_something() -> None:
    made = planned(10, clip_norm=10, schedule="linear")
    assert made.target is not None
    assert (made.target.t_cut, made.target.cut_ratio, made.target.server_share) == (675, 0.675, 0.325)
    assert made.target.epsilon == pytest.approx(9.969, abs=5e-4)
    assert made.target.sigma == pytest.approx(10.023, abs=5e-4)
    assert made.target.snr_db == pytest.approx(-20.02, abs=5e-3)
    assert made.target.detection == pytest.approx(0.3703, abs=5e-5)
    assert [price.t_cut for _, price in made.others if price] == [924, 811, 675, 541]
    assert made.objections == ()


def test_the_figures_are_those_of_another_accountant() -> None:
    made = planned(3, image="1x8x8", releases=4, delta=1e-6)
    assert made.target is not None
    mu = 2 * 8 * 2 / made.target.sigma
    assert made.target.epsilon == pytest.approx(dp_accounting.get_epsilon_gaussian(1 / mu, 1e-6), rel=1e-6)
    assert made.target.detection == pytest.approx(stats.norm.sf(stats.norm.isf(0.01) - mu))
    assert made.target.sigma >= 2 * 8 * 2 * dp_accounting.get_sigma_gaussian(3, 1e-6) * (1 - 1e-9)


@pytest.mark.parametrize(
    "values", [{"clip_norm": 3.0}, {"image": "1x8x8"}, {"image": "1x8x8", "clip_norm": 2.0}]
)
@pytest.mark.parametrize("timesteps", [37, 1000])
def test_a_device_so_set_pays_what_was_planned(values: dict[str, object], timesteps: int) -> None:
    """The settings that are printed are loaded, and a real release made with them."""
    question = PrivacyQuestion.of(epsilon=12, timesteps=timesteps, **values)
    made = plan_privacy(question)
    assert made.target is not None
    settings = EdgeSettings(**tomllib.loads("\n".join(settings_of(question, made.target))))
    cut = Cut(NoiseSchedule.named(settings.schedule, settings.schedule_steps), settings.cut_ratio)
    assert cut.t_cut == made.target.t_cut
    image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8)).astype(np.float32)
    paid = epsilon_of_mu(release(cut, image, bytes(32), clip_norm=settings.clip_norm).mu, settings.delta)
    assert settings.epsilon_budget is not None
    assert paid == pytest.approx(made.target.epsilon)
    assert paid <= settings.epsilon_budget == question.epsilon


def test_a_smaller_norm_pays_the_price_at_an_earlier_cut() -> None:
    made = planned(10, image="3x64x64")
    assert [remedy.cut_ratio for remedy in made.remedies] == [0.5, 0.7, 0.9]
    for remedy in made.remedies:
        assert remedy.kept == pytest.approx(remedy.clip_norm / made.norm)
        again = planned(10, clip_norm=remedy.clip_norm * (1 - 1e-9)).target
        assert again is not None
        assert again.cut_ratio == remedy.cut_ratio
        later = planned(10, clip_norm=remedy.clip_norm * (1 + 1e-6)).target
        assert later is not None
        assert later.cut_ratio > remedy.cut_ratio


def test_fewer_releases_are_cheaper_and_the_plan_says_so() -> None:
    made = planned(10, clip_norm=2, releases=16)
    assert made.target is not None
    assert made.single is not None
    assert made.single.t_cut < made.target.t_cut
    assert planned(10, clip_norm=2).single is None
    assert "one release instead of 16" in shown(10, clip_norm=2, releases=16)


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_large_images_unclipped_are_promised_nothing_of_use(columns: int) -> None:
    made = planned(10, image="3x64x64")
    assert made.norm == pytest.approx(110.85, abs=5e-3)
    assert made.target is not None
    assert made.target.t_cut == 995
    text = shown(10, columns, image="3x64x64")
    assert f"{NO_GUARANTEE} · the cut leaves the server 0.5 % of the chain, at -42 dB" in text
    assert "norm 6.37: the cut may be at 0.9; the strongest image keeps 5.74 % of its contrast" in text


def test_a_price_that_no_cut_has_is_said_to_have_none() -> None:
    made = planned(0.1, image="3x64x64")
    assert made.target is None
    assert made.at_last_cut == pytest.approx(1.322, abs=5e-4)
    text = shown(0.1, image="3x64x64")
    assert "no cut does" in text
    assert "even the last, t = 999, costs ε = 1.32" in text
    assert "what it promises" not in text


def test_a_large_epsilon_is_told_apart_from_a_promise() -> None:
    assert planned(20, clip_norm=2).objections == ()
    (objection,) = planned(21, clip_norm=2).objections
    assert "ε above 20 promises nothing to rely on" in objection
    assert NO_GUARANTEE not in shown(20, clip_norm=2)


def test_a_promise_that_may_often_fail_is_told_apart_from_one() -> None:
    assert planned(1, clip_norm=2, delta=1e-3).objections == ()
    (objection,) = planned(1, clip_norm=2, delta=0.5).objections
    assert "δ above 0.001" in objection
    assert "50 % of the images in the clear" in objection
    assert NO_GUARANTEE in shown(1, clip_norm=2, delta=0.5)


def test_what_it_means_is_said_in_plain_words() -> None:
    text = shown(10, clip_norm=10, schedule="linear")
    assert "gets right in 1 % of cases without the releases" in text
    assert "gets right in at most 37 % with them" in text
    assert "head_steps = 4" in text
    assert "labels, prompts, how many images there are and when they come are not hidden" in text


def test_the_command_prints_one_object() -> None:
    done = CliRunner().invoke(
        app, ["privacy", "--epsilon", "10", "--clip-norm", "10", "--schedule", "linear", "--json"]
    )
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["question"]["epsilon"] == 10
    assert told["target"]["t_cut"] == 675
    assert told["others"][3][0] == 30
    assert done.stdout.count("\n") == 1


def test_the_fleets_plan_is_asked_for_as_before() -> None:
    done = CliRunner().invoke(app, ["--devices", "10", "--images-per-day", "2", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["demand"]["devices"] == 10
    assert "privacy" in CliRunner().invoke(app, ["--help"]).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["privacy"], "--epsilon is not given"),
        (["privacy", "--epsilon", "3"], "give --image 3x64x64 or --clip-norm"),
        (["privacy", "--epsilon", "3", "--image", "64x64"], "--image: channels, height and width"),
        (["privacy", "--epsilon", "0", "--clip-norm", "1"], "--epsilon: "),
        (["privacy", "--epsilon", "nan", "--clip-norm", "1"], "--epsilon: "),
        (["privacy", "--epsilon", "3", "--clip-norm", "-1"], "--clip-norm: "),
        (["privacy", "--epsilon", "3", "--clip-norm", "1", "--delta", "1"], "--delta: "),
        (["--devices", "3", "privacy", "--epsilon", "3"], "--devices stands before `privacy`"),
        (["--json", "privacy", "--epsilon", "3"], "--json stands before `privacy`"),
        ([], "--devices is not given"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(arguments: list[str], words: str) -> None:
    refused = CliRunner().invoke(app, arguments).exception
    assert isinstance(refused, PlanRefused)
    assert words in str(refused)
    assert "\n" not in str(refused)
