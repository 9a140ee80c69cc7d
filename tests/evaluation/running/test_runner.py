"""What a run finds out before it trains anything, and how its processes begin and end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from evaluation.cli import app
from evaluation.data.images import ClientData, LabelledImages
from evaluation.errors import DataError, RunError, SummaryError, TextError
from evaluation.metrics.recogniser import save_recogniser
from evaluation.running import runner
from evaluation.running.federation import Federation
from evaluation.running.runner import Part, check_sizes, evaluate
from evaluation.running.workbench import Setting, Workbench
from tests.conftest import wait_until


def never(part: Part) -> None:
    raise AssertionError(f"began with {part}")


def shortened(federation: Federation, train: int, held_out: int) -> Federation:
    first, *others = federation.clients
    few = ClientData(first.name, first.train.take(np.arange(train)), first.held_out.take(np.arange(held_out)))
    return replace(federation, clients=(few, *others))


@pytest.mark.parametrize(("train", "held_out"), [(15, 16), (16, 15)])
def test_too_few_images_are_found_out_before_anything_is_trained(
    federation: Federation, setting: Setting, train: int, held_out: int
) -> None:
    check_sizes(shortened(federation, 16, 16))
    with pytest.raises(DataError, match=f"has {train} images to train on and {held_out} held out, too few"):
        check_sizes(shortened(federation, train, held_out))
    with pytest.raises(DataError, match="too few to measure"):
        evaluate(replace(setting, plan=replace(setting.plan, limit=60)), ["sweep"], workers=1, on_part=never)
    assert list((setting.folder / "networks").iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((4, 8, 8), "have 4 channels"),
        ((2, 8, 8), "have 2 channels"),
        ((1, 8, 9), "9×8 pixels.*--image-size, such as 8$"),
        ((3, 48, 32), "32×48 pixels.*such as 32$"),
        ((1, 2, 2), "2×2 pixels"),
        ((1, 155, 155), "155×155 pixels.*such as 152$"),
        ((3, 218, 218), "218×218 pixels.*such as 216$"),
    ],
)
def test_images_that_no_network_takes_are_found_out_before_anything_is_trained(
    federation: Federation, shape: tuple[int, int, int], said: str
) -> None:
    first, *others = federation.clients
    images = np.zeros((len(first.train), *shape), np.float32)
    train = LabelledImages(images, first.train.labels)
    with pytest.raises(DataError, match=said):
        check_sizes(replace(federation, clients=(replace(first, train=train), *others)))


@pytest.mark.parametrize("side", [4, 9, 28, 50, 64, 240])
def test_squares_that_can_be_halved_often_enough_are_taken(federation: Federation, side: int) -> None:
    first = federation.clients[0]
    train = LabelledImages(np.zeros((len(first.train), 1, side, side), np.float32), first.train.labels)
    check_sizes(replace(federation, clients=(replace(first, train=train),)))


def test_an_extractor_of_other_images_is_found_out_before_anything_is_trained(
    setting: Setting, tmp_path: Path
) -> None:
    path = tmp_path / "flat.pt"
    torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(7, 4))), path)
    with pytest.raises(DataError, match=r"flat\.pt cannot take images of shape"):
        evaluate(replace(setting, extractor=path), ["sweep"], workers=1, on_part=lambda part: None)
    assert list((setting.folder / "networks").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_found_out_at_once(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose another --out"):
        evaluate(replace(setting, folder=tmp_path / "file" / "out"), ["sweep"], workers=1, on_part=never)


def test_what_a_figure_belongs_to_is_all_that_is_known_of_the_images(federation: Federation) -> None:
    first, *others = federation.clients
    n = len(first.train)

    def print_of(values: np.ndarray, name: str) -> str:
        train = LabelledImages(first.train.images, first.train.labels, values.astype(np.float32), (name,))
        clients = (ClientData(first.name, train, first.held_out), *others)
        return replace(federation, clients=clients).fingerprint

    known = print_of(np.zeros((n, 1)), "age")
    assert known == print_of(np.zeros((n, 1)), "age")
    assert len({known, print_of(np.ones((n, 1)), "age"), print_of(np.zeros((n, 1)), "dose")}) == 3
    assert (
        replace(federation, label_names=(*federation.label_names, "one more")).fingerprint
        != federation.fingerprint
    )


def test_other_weights_under_the_same_name_are_another_outcome(setting: Setting, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    chosen = replace(setting, extractor=weights)
    bench = Workbench(chosen)
    places = []
    for content in (b"a", b"b", b"a"):
        weights.write_bytes(content)
        places.append(runner._place(chosen, bench, "sweep"))
    assert places[0] == places[2] != places[1]


def test_a_damaged_outcome_or_recogniser_is_named_before_anything_is_trained(
    setting: Setting, bench: Workbench
) -> None:
    recogniser = setting.folder / "networks" / f"recogniser-{bench.federation.fingerprint}.safetensors"
    recogniser.parent.mkdir(parents=True)
    recogniser.write_bytes(b"damaged")
    with pytest.raises(RunError, match="cannot be read: remove the file and run again"):
        evaluate(setting, ["sweep"], workers=1, on_part=lambda part: None)
    save_recogniser(recogniser, bench.recogniser)
    place = runner._place(setting, bench, "sweep")
    place.parent.mkdir(exist_ok=True)
    place.write_text("{")
    with pytest.raises(SummaryError, match="remove the file and run again"):
        evaluate(setting, ["sweep"], workers=1, on_part=lambda part: None)


def test_an_interrupted_run_ends_its_processes_at_once_and_they_never_hear_the_keyboard(
    setting: Setting,
) -> None:
    children: list[multiprocessing.process.BaseProcess] = []

    def run() -> None:
        with runner._pool(setting, 1, lambda part: None) as pool:
            with runner._undisturbed():
                mask = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ())
            assert signal.SIGINT in mask.result()
            assert signal.SIGTERM not in mask.result()
            pool.submit(time.sleep, 600)
            children.extend(multiprocessing.active_children())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert children
    # Whether a child lives is asked again and again: once is not enough, for the pool's own thread may just be reaping it.
    wait_until(lambda: not any(child.is_alive() for child in children), "the processes end", 30)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_end_that_is_asked_for_twice_interrupts_once() -> None:
    before = signal.signal(signal.SIGTERM, runner.interrupt_once)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_end_that_is_asked_for_while_processes_start_comes_when_they_have() -> None:
    reached: list[bool] = []

    def start() -> None:
        with runner._undisturbed():
            signal.raise_signal(signal.SIGTERM)
            reached.append(True)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert reached
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


_PARENT = """
import multiprocessing, threading, time
from evaluation.running.runner import _end_with_parent

def child():
    threading.Thread(target=_end_with_parent, daemon=True).start()
    time.sleep(600)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    print(process.pid, flush=True)
    process.join()
"""


def test_a_parent_that_was_killed_leaves_nobody_training(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(_PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    """Whether a process is there and is no zombie, which only its new parent can take away."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_unknown_experiment_is_refused_beside_all(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["all", "teleport", "--out", str(tmp_path / "out")]).exception
    assert isinstance(refused, RunError)
    assert "no experiment is called 'teleport'" in str(refused)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", [("--prompt", "a lesion"), ("--text-encoder", "t5"), ("--prompt", "a", "--text-encoder", "t5")]
)
def test_a_text_for_experiments_that_read_none_is_refused(tmp_path: Path, option: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    refused = CliRunner().invoke(app, ["sweep", "payload", *option, "--out", str(out)]).exception
    assert isinstance(refused, RunError)
    named = " and ".join(word for word in option if word.startswith("--"))
    assert str(refused).startswith(f"{named}: sweep, payload will read no text; add conditioning")
    assert not out.exists()


def test_an_encoder_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["all", "--text-encoder", str(tmp_path / "absent"), "--out", str(out)]
    refused = CliRunner().invoke(app, arguments).exception
    assert isinstance(refused, TextError)
    assert str(refused).startswith(f"there is no directory {tmp_path / 'absent'}: give the one")
    assert not out.exists()
