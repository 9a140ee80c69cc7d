import json
import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import TrainingError
from edge_agent.heads.head import Head
from edge_agent.training.head_training import HeadTraining, TrainingProgress, train_head
from edge_agent.training.local_training import learning_rate_at
from export.checkpoint import load_checkpoint
from export.head_export import export_head
from tests.conftest import WAIT_SECONDS

DEADLINE_SECONDS = WAIT_SECONDS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of tiny images: bright above, or bright on the left."""
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = np.full((64, 1, 8, 8), -1.0, np.float32)
    images[labels == 0, :, :4] = 1.0
    images[labels == 1, :, :, :4] = 1.0
    images += generator.uniform(0, 0.1, images.shape) * np.where(images > 0, -1, 1)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=images.astype(np.float32), labels=labels)
    return path


def tiny(**changes: object) -> HeadTraining:
    values = {
        "client": "ward",
        "cut": 0.3,
        "steps": 150,
        "batch_size": 16,
        "base_channels": 8,
        "num_classes": 2,
    }
    return HeadTraining(**{**values, **changes})  # type: ignore[arg-type]  # the values are of many types


def wait_for_line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    watchdog = threading.Timer(DEADLINE_SECONDS, child.kill)
    watchdog.start()
    try:
        return child.stdout.readline()
    finally:
        watchdog.cancel()


def test_training_gives_a_head_whose_loss_has_fallen_and_which_a_device_can_run(
    data: Path, tmp_path: Path
) -> None:
    reports: list[TrainingProgress] = []

    train_head(data, tmp_path / "head.safetensors", tiny(), reports.append)

    head = load_checkpoint(tmp_path / "head.safetensors")
    assert reports[0].step == 1
    assert all(earlier.step < later.step for earlier, later in pairwise(reports))
    assert reports[-1].step == reports[-1].steps == 150
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert reports[-1].steps_per_second > 0
    curve = head.metadata.loss_curve
    assert len(curve) == 50
    assert curve[-1][0] == 150
    assert curve[-1][1] < 0.6 * curve[0][1]
    assert (head.metadata.t_cut, head.metadata.images, head.metadata.labels) == (300, 64, ("0", "1"))

    export_head(tmp_path / "head.safetensors", tmp_path / "head.bundle")
    finished = Head.load(tmp_path / "head.bundle", provider="cpu", threads=1).finish(
        np.zeros((2, 1, 8, 8), np.float32),
        (300, 200, 100, 50, 0),
        seeds=np.zeros(2, np.uint64),
        samples=np.arange(2),
        labels=np.array([0, 1]),
    )
    brightness = finished[:, 0, :4].mean(axis=(1, 2)) - finished[:, 0, :, :4].mean(axis=(1, 2))
    assert brightness[0] > brightness[1], "each label is brighter where its training images were"


def test_training_again_with_the_same_seed_gives_the_same_weights(data: Path, tmp_path: Path) -> None:
    training = tiny(steps=3, cut=1.0, num_classes=None)
    for name in ("a", "b"):
        train_head(data, tmp_path / name, training)

    first, second = (load_checkpoint(tmp_path / name).network.state_dict() for name in ("a", "b"))

    assert all(bool((first[name] == second[name]).all()) for name in first)
    assert load_checkpoint(tmp_path / "a").metadata.t_cut == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut": 1e-5}, "the head owns no step"),
        ({"schedule": "square"}, "square"),
        ({"num_classes": 1}, r"the labels are 0\.\.1, but --num-classes is 1"),
        ({"base_channels": 9}, "multiple of 8"),
        ({"learning_rate": 1e30, "steps": 20}, "--learning-rate"),
    ],
)
def test_a_failure_reaches_the_parent_in_the_childs_words(
    data: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message) as failed:
        train_head(data, tmp_path / "head.safetensors", tiny(**{"steps": 2, **changes}))

    assert "\n" not in str(failed.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client": "Ward 7"}, "'Ward 7' is not a client"),
        ({"cut": 1.5}, "owns no step"),
        ({"steps": 0}, "--steps"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused_before_it_begins(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        tiny(**changes)


def test_images_that_are_not_there_are_reported(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist"):
        train_head(tmp_path / "absent", tmp_path / "head.safetensors", tiny())


def test_a_terminated_training_leaves_no_file(data: Path, tmp_path: Path) -> None:
    arguments = [str(data), "--out", str(tmp_path / "head.safetensors"), *tiny(steps=100_000).arguments()]
    with subprocess.Popen(
        [sys.executable, "-m", "edge_agent.training.local_training", *arguments, "--json-progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert json.loads(wait_for_line(child))["step"] >= 1
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=DEADLINE_SECONDS)

    assert child.returncode == 130
    assert "interrupted; nothing was written" in said
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_parent_takes_its_child_with_it(data: Path, tmp_path: Path) -> None:
    def interrupt(_progress: TrainingProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_head(data, tmp_path / "head.safetensors", tiny(steps=100_000), interrupt)

    assert list(tmp_path.iterdir()) == []
    assert _children_of(os.getpid()) == []


@pytest.mark.parametrize("missing", ["torch", "PIL"])
def test_without_a_library_one_line_names_the_extras(data: Path, tmp_path: Path, missing: str) -> None:
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{missing}'\", name='{missing}')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "edge_agent.training.local_training",
            str(data),
            "--out",
            "x",
            "--client",
            "ward",
        ],
        capture_output=True,
        text=True,
        env=environment,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert result.returncode == 1
    assert (
        result.stderr
        == f"error: training needs {missing}; install it with: pip install 'collafuse-edge[edge,train]'\n"
    )


def test_the_learning_rate_warms_up_and_then_only_falls() -> None:
    rates = [learning_rate_at(step, 200) for step in range(200)]

    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.03


def _children_of(pid: int) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == pid and "local_training" in command:
            found.append(command)
    return found
