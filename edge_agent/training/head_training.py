"""Training a head from a process that must stay small: the work happens in a child that loads torch."""

import json
import re
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Thread
from typing import IO, Any

from broker.contract.heads import NAME_PATTERN
from edge_agent.child import python
from edge_agent.errors import TrainingError

_STOP_TIMEOUT_SECONDS = 10.0
_KEPT_LINES = 20


@dataclass(frozen=True)
class HeadTraining:
    """What to train and for how long.

    Attributes:
        client: whose head it is, `[a-z0-9][a-z0-9-]*`.
        schedule: "cosine" or "linear".
        timesteps: T of the schedule.
        cut: the client's share of the chain, in (0, 1]; 1 gives a model of the whole chain.
        steps: optimiser steps.
        batch_size: images per step.
        base_channels: width of the U-Net.
        learning_rate: the peak of AdamW's.
        num_classes: of a conditional head; None for an unconditional one.
        seed: of the weights, the order of the images and the noise.
        threads: torch's, 1 or more.

    Raises:
        TrainingError: a value out of range.
    """

    client: str
    schedule: str = "cosine"
    timesteps: int = 1000
    cut: float = 0.2
    steps: int = 400
    batch_size: int = 64
    base_channels: int = 24
    learning_rate: float = 4e-3
    num_classes: int | None = None
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME_PATTERN, self.client):
            raise TrainingError(
                f"{self.client!r} is not a client; use lower-case letters, digits and hyphens"
            )
        if not 0 < self.cut <= 1:
            raise TrainingError(f"with a cut of {self.cut} the head owns no step; give one in (0, 1]")
        if min(self.steps, self.batch_size, self.threads) < 1:
            raise TrainingError("--steps, --batch-size and --threads must be 1 or more")
        if not self.learning_rate > 0 or self.seed < 0:
            raise TrainingError("--learning-rate must be positive, and --seed 0 or more")

    def arguments(self) -> list[str]:
        """The command-line form, `--base-channels 24` and so on; what is None is left out."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [
            part
            for name, value in values
            if value is not None
            for part in (f"--{name.replace('_', '-')}", str(value))
        ]


@dataclass(frozen=True)
class TrainingProgress:
    """One report from the training process: after `step` of `steps`, the mean of the last losses."""

    step: int
    steps: int
    loss: float
    steps_per_second: float


def train_head(
    data: Path,
    out: Path,
    training: HeadTraining,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> None:
    """Train a head on the clean images in `data` and write its checkpoint to `out`.

    Args:
        data: what `edge_agent.release.images.load_images` reads.
        out: the checkpoint; written whole, at the end.
        training: what to train.
        on_progress: called in this thread with every report of the child.

    Raises:
        TrainingError: the child failed; its last line says why.
    """
    command = python("edge_agent.training.local_training", str(data), "--out", str(out))
    command += [*training.arguments(), "--json-progress"]
    tail: deque[str] = deque(maxlen=_KEPT_LINES)
    with _child(command, tail) as child:
        assert child.stdout is not None
        for line in child.stdout:
            progress = _progress(line)
            if progress is not None and on_progress is not None:
                on_progress(progress)
        status = child.wait()
    if status != 0:
        raise TrainingError(_reason(tail, status))


@contextmanager
def _child(command: list[str], tail: deque[str]) -> Iterator["subprocess.Popen[str]"]:
    # Its own session, so that one ctrl-C at the terminal does not hit it twice: it ends when this block does.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stderr is not None
    # A full pipe would stop the child, so stderr is read while stdout is.
    reader = Thread(target=_collect, args=(child.stderr, tail), name="training-stderr", daemon=True)
    reader.start()
    try:
        yield child
    finally:
        _end(child)
        reader.join(_STOP_TIMEOUT_SECONDS)
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _collect(stream: IO[str], tail: deque[str]) -> None:
    tail.extend(line.rstrip() for line in stream if line.strip())


def _end(child: "subprocess.Popen[str]") -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _progress(line: str) -> TrainingProgress | None:
    try:
        report: dict[str, Any] = json.loads(line)
        return TrainingProgress(**report)
    except (ValueError, TypeError):
        # Some library's own remark on stdout.
        return None


def _reason(tail: deque[str], status: int) -> str:
    if status < 0:
        return f"training was ended by signal {-status}; start it again"
    last = tail[-1].removeprefix("error: ") if tail else f"it exited with status {status} and said nothing"
    return f"training failed: {last}"
