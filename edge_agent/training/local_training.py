"""Training a client's head on its own clean images, in its own process: `python -m edge_agent.training.local_training`.

The only module of the agent that loads torch. The head learns ε_θ(x_t, t) for t in [1, t_c] from
x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε; nothing of the images leaves the machine.
"""

import json
import math
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Never

import numpy as np

from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from edge_agent.errors import TrainingError
from edge_agent.training.head_training import HeadTraining, TrainingProgress
from monitoring.errors import CollafuseError

try:
    import torch
    from torch import Tensor

    from diffusion.ema import EMA
    from diffusion.network import UNet, UNetConfig
    from diffusion.objective import local_loss
    from edge_agent.release.images import ImageSet, load_images
    from export.checkpoint import HeadMetadata, save_checkpoint
except ModuleNotFoundError as error:
    sys.exit(f"error: training needs {error.name}; install it with: pip install 'collafuse-edge[edge,train]'")

_WARM_UP = 0.05
_FINAL_RATE = 0.02
_WEIGHT_DECAY = 1e-4
_GRADIENT_NORM = 1.0
_EMA_DECAY = 0.995
# One sample in ten is shown without its label, so that "no label" is a label the head knows.
_LABEL_DROPOUT = 0.1
_CURVE_POINTS = 50
_REPORT_SECONDS = 1.0
_RECENT_STEPS = 50


@dataclass(frozen=True, eq=False)
class _Data:
    x0: Tensor
    labels: Tensor | None


class _LossRecord:
    """The losses of a run: a curve by step, the same in every run, and reports by the clock, for whoever waits."""

    def __init__(self, steps: int, on_progress: Callable[[TrainingProgress], None]) -> None:
        self.curve: list[tuple[int, float]] = []
        self._steps = steps
        self._on_progress = on_progress
        self._every = math.ceil(steps / _CURVE_POINTS)
        self._since_point: list[float] = []
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._started = time.monotonic()
        self._reported = -math.inf

    def add(self, step: int, loss: float) -> None:
        """Note the loss of `step`, which counts from 1."""
        self._since_point.append(loss)
        self._recent.append(loss)
        if step % self._every == 0 or step == self._steps:
            self.curve.append((step, fmean(self._since_point)))
            self._since_point.clear()
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS or step == self._steps:
            self._reported = now
            speed = step / max(now - self._started, 1e-9)
            self._on_progress(TrainingProgress(step, self._steps, fmean(self._recent), speed))


def train(
    images: ImageSet, training: HeadTraining, on_progress: Callable[[TrainingProgress], None]
) -> tuple[UNet, HeadMetadata]:
    """Train a head; the network returned carries the moving average of the weights.

    Args:
        images: (N, C, H, W) float32 in [-1, 1], square; labels are needed for a conditional head.
        training: what to train.
        on_progress: called about once a second, and after the last step.

    Raises:
        TrainingError: the images do not fit what is to be trained.
        DiffusionError: the schedule or the cut makes no sense.
    """
    schedule = NoiseSchedule.named(training.schedule, training.timesteps)
    t_cut = Cut(schedule, training.cut).t_cut
    data = _data(images, training, t_cut)
    torch.set_num_threads(training.threads)
    torch.manual_seed(training.seed)
    network = UNet(_network_config(images, training))
    started = time.monotonic()
    curve = _optimise(network, data, schedule, training, t_cut=t_cut, on_progress=on_progress)
    metadata = HeadMetadata(
        unet=network.config.to_dict(),
        schedule_name=schedule.name,
        schedule_T=schedule.T,
        schedule_id=schedule.schedule_id,
        t_cut=t_cut,
        client=training.client,
        labels=tuple(str(label) for label in range(training.num_classes or 0)),
        steps=training.steps,
        batch_size=training.batch_size,
        images=len(data.x0),
        learning_rate=training.learning_rate,
        seed=training.seed,
        seconds=round(time.monotonic() - started, 3),
        loss=curve[-1][1],
        loss_curve=tuple(curve),
    )
    return network, metadata


def _optimise(
    network: UNet,
    data: _Data,
    schedule: NoiseSchedule,
    training: HeadTraining,
    *,
    t_cut: int,
    on_progress: Callable[[TrainingProgress], None],
) -> list[tuple[int, float]]:
    generator = torch.Generator().manual_seed(training.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=_WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_at(step, training.steps))
    average = EMA(network, decay=_EMA_DECAY)
    record = _LossRecord(training.steps, on_progress)
    network.train()
    for step in range(1, training.steps + 1):
        x0, label = _batch(data, training, generator)
        loss = local_loss(network, schedule, x0, label, t_cut, generator)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward([loss])
        torch.nn.utils.clip_grad_norm_(network.parameters(), _GRADIENT_NORM)
        optimiser.step()
        rate.step()
        average.update(network)
        record.add(step, _finite(loss, step))
    average.copy_to(network)
    return record.curve


def learning_rate_at(step: int, steps: int) -> float:
    """Share of the peak learning rate after `step` of `steps`: a linear warm-up, then half a cosine."""
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(f"the loss is {value} at step {step}; train with a smaller --learning-rate")
    return value


def _batch(data: _Data, training: HeadTraining, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    chosen = torch.randint(len(data.x0), (training.batch_size,), generator=generator)
    if data.labels is None or training.num_classes is None:
        return data.x0[chosen], None
    label = data.labels[chosen]
    hidden = torch.rand(len(label), generator=generator) < _LABEL_DROPOUT
    return data.x0[chosen], torch.where(hidden, training.num_classes, label)


def _data(images: ImageSet, training: HeadTraining, t_cut: int) -> _Data:
    if t_cut < 1:
        raise TrainingError(f"with a cut of {training.cut} the head owns no step; give a larger --cut")
    x0 = images.images
    if len(x0) == 0 or x0.shape[2] != x0.shape[3]:
        raise TrainingError(f"training needs square images, got {x0.shape}; crop them first")
    if training.num_classes is None:
        return _Data(torch.from_numpy(x0.copy()), None)
    if images.labels is None:
        raise TrainingError("a head with --num-classes needs labelled images; leave it out or add labels")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= training.num_classes:
        raise TrainingError(f"the labels are {low}..{high}, but --num-classes is {training.num_classes}")
    return _Data(torch.from_numpy(x0.copy()), torch.from_numpy(images.labels.astype(np.int64)))


def _network_config(images: ImageSet, training: HeadTraining) -> UNetConfig:
    channels, size = images.images.shape[1:3]
    if size % 4:
        raise TrainingError(f"the head's network needs a side that is a multiple of 4, got {size}; resize")
    # Halved until the lowest level has 4x4, where attention is nearly free; three halvings at most.
    levels = min(4, 1 + max(0, int(math.log2(size // 4))))
    while size % 2 ** (levels - 1):
        levels -= 1
    return UNetConfig(
        in_channels=channels,
        image_size=size,
        base_channels=training.base_channels,
        channel_multipliers=(1, 2, 2, 4)[:levels],
        blocks_per_level=1,
        attention=True,
        num_classes=training.num_classes,
    )


def _arguments(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(prog="python -m edge_agent.training.local_training", description=train.__doc__)
    parser.add_argument("data", type=Path, help="the client's clean images")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument("--client", required=True)
    parser.add_argument("--schedule", default=HeadTraining.schedule)
    parser.add_argument("--timesteps", type=int, default=HeadTraining.timesteps)
    parser.add_argument("--cut", type=float, default=HeadTraining.cut)
    parser.add_argument("--steps", type=int, default=HeadTraining.steps)
    parser.add_argument("--batch-size", type=int, default=HeadTraining.batch_size)
    parser.add_argument("--base-channels", type=int, default=HeadTraining.base_channels)
    parser.add_argument("--learning-rate", type=float, default=HeadTraining.learning_rate)
    parser.add_argument("--num-classes", type=int, default=None)
    parser.add_argument("--seed", type=int, default=HeadTraining.seed)
    parser.add_argument("--threads", type=int, default=HeadTraining.threads)
    parser.add_argument("--json-progress", action="store_true", help="one JSON object a line on stdout")
    return parser.parse_args(argv)


def _print_json(progress: TrainingProgress) -> None:
    sys.stdout.write(json.dumps(vars(progress)) + "\n")
    sys.stdout.flush()


def _print_text(progress: TrainingProgress) -> None:
    sys.stdout.write(
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
        f"{progress.steps_per_second:.1f} steps/s\n"
    )
    sys.stdout.flush()


def _interrupt(_signal: int, _frame: FrameType | None) -> Never:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; 0 when the checkpoint stands, 1 with one line on stderr when not."""
    arguments = vars(_arguments(argv))
    data, out = arguments.pop("data"), arguments.pop("out")
    report = _print_json if arguments.pop("json_progress") else _print_text
    # SIGTERM unwinds like ctrl-C, so that no half-written file is left behind.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        network, metadata = train(load_images(data), HeadTraining(**arguments), report)
        save_checkpoint(out, network, metadata)
    except CollafuseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: training was interrupted; nothing was written\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
