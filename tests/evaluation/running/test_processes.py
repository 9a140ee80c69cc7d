"""An experiment through the runner, with processes of its own: kept, gone on with, and stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.conditioning.t5_directory import T5Directory
from evaluation.errors import RunError
from evaluation.running import runner
from evaluation.running.runner import MEASURING, TRAINING, Evaluation, Part, evaluate
from evaluation.running.workbench import Setting, Workbench
from tests.conftest import WAIT_SECONDS, wait_until
from tests.evaluation.tiny import PLAN, TINY

SUITE = "payload"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runner")


@pytest.fixture(scope="module")
def first(folder: Path) -> tuple[Evaluation, list[Part]]:
    parts: list[Part] = []
    return evaluate(Setting(TINY, PLAN, folder), [SUITE], workers=2, on_part=parts.append), parts


def test_it_trains_then_measures_and_tells_of_both(first: tuple[Evaluation, list[Part]]) -> None:
    evaluation, parts = first
    assert [outcome.suite for outcome in evaluation.outcomes] == [SUITE]
    assert evaluation.outcomes[0].seconds > 0
    trained = {part.key for part in parts if part.kind == TRAINING and part.note and part.done == part.of}
    assert len(trained) == evaluation.networks
    assert parts[-1].kind == MEASURING


def test_the_same_command_does_nothing_again(first: tuple[Evaluation, list[Part]], folder: Path) -> None:
    parts: list[Part] = []
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = evaluate(Setting(TINY, PLAN, folder), [SUITE], workers=1, on_part=parts.append)

    assert again.outcomes == first[0].outcomes
    assert not [part for part in parts if part.note]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_another_budget_or_other_data_never_meets_an_old_outcome(tmp_path: Path) -> None:
    settings = (
        Setting(TINY, PLAN, tmp_path),
        Setting(replace(TINY, images=17), PLAN, tmp_path),
        Setting(TINY, replace(PLAN, limit=200), tmp_path),
    )
    assert len({place_of(setting, SUITE) for setting in settings}) == len(settings)


def test_what_texts_are_read_by_names_only_the_outcomes_that_read_texts(tmp_path: Path) -> None:
    settings = (
        Setting(TINY, PLAN, tmp_path),
        Setting(TINY, PLAN, tmp_path, prompts=("a lesion",)),
        Setting(TINY, PLAN, tmp_path, text_encoder=T5Directory(tmp_path, "a")),
        Setting(TINY, PLAN, tmp_path, text_encoder=T5Directory(tmp_path, "b")),
    )
    assert len({place_of(setting, "conditioning") for setting in settings}) == len(settings)
    assert len({place_of(setting, SUITE) for setting in settings}) == 1
    moved = Setting(TINY, PLAN, tmp_path, text_encoder=T5Directory(tmp_path / "moved", "b"))
    assert place_of(moved, "conditioning") == place_of(settings[-1], "conditioning")


def place_of(setting: Setting, name: str) -> Path:
    return runner._place(setting, Workbench(setting), name)


def test_an_unknown_experiment_is_one_line(setting: Setting) -> None:
    with pytest.raises(RunError, match="no experiment is called 'sleep'"):
        evaluate(setting, ["sleep"], workers=1, on_part=lambda _: None)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `collafuse evaluate` with these arguments; whatever still runs at the end is ended."""
    begun: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "collafuse", "evaluate", *arguments, "--out", str(tmp_path / "out")]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield run
    for process in begun:
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate()


def children(pid: int) -> set[int]:
    """The processes that a process has started and that still run."""
    try:
        return {
            int(found)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for found in (task / "children").read_text().split()
        }
    except OSError:  # it has ended meanwhile
        return set()


def test_an_interrupted_evaluation_ends_with_all_its_processes(start: Start) -> None:
    process = start(SUITE, "--quick", "--jobs", "2")
    wait_until(lambda: len(children(process.pid)) >= 2, "two processes were started")
    began = children(process.pid)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in said
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in began), "they have ended too")


def test_a_killed_child_is_one_line_and_what_was_done_is_kept(start: Start, tmp_path: Path) -> None:
    process = start(SUITE, "--quick", "--jobs", "1", "--updates", "20", "--limit", "300")

    def kept() -> list[Path]:
        return list(tmp_path.glob("out/networks/????????????????????.safetensors"))

    wait_until(lambda: bool(kept()), "a network was kept")
    for pid in children(process.pid):
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == 1
    assert "was killed" in said
    assert "Traceback" not in said
    assert kept()


def test_what_cannot_be_evaluated_is_one_line(start: Start) -> None:
    process = start(SUITE, "--extractor", "missing.pt")
    out, error = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == 1
    assert not out
    assert error.splitlines()[-1].startswith("error: there is no file missing.pt")
    assert "Traceback" not in error
