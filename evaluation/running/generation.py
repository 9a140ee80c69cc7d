"""Making images with a cut chain: the backbone from noise to the cut, a head from there, each by a plan of its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.network import UNet
from diffusion.noise import initial_noise
from diffusion.plan import plan
from diffusion.sampling import run
from diffusion.schedule import NoiseSchedule
from evaluation.data.images import LabelledImages

BATCH = 256


@dataclass(frozen=True)
class StepPlan:
    """How a chain is run.

    server_steps, head_steps: network evaluations for one image; a side that owns no step makes none.
    sampler: one of `diffusion.steps.SAMPLERS`;  spacing: one of `diffusion.plan.SPACINGS`;  clip: bound on |x̂_0|, or None.
    """

    server_steps: int
    head_steps: int
    sampler: str = "ddim"
    spacing: str = "uniform"
    eta: float = 0.0
    clip: float | None = 1.0


@dataclass(frozen=True, eq=False)
class Generated:
    """Images of one run, (N, C, H, W) float32 each.

    at_cut: as the server hands them over;  finished: after the head;  labels: (N,) int32 as asked for.
    """

    at_cut: NDArray[np.float32]
    finished: NDArray[np.float32]
    labels: NDArray[np.int32]

    def as_images(self) -> LabelledImages:
        """The finished images, within [-1, 1], with the labels that were asked for."""
        return LabelledImages(np.clip(self.finished, -1.0, 1.0), self.labels)


def generate(
    schedule: NoiseSchedule,
    backbone: UNet | None,
    head: UNet | None,
    t_cut: int,
    labels: NDArray[np.int32],
    steps: StepPlan,
    *,
    shape: tuple[int, int, int],
    seed: int,
    head_starts_at: int | None = None,
) -> Generated:
    """Makes one image for each label.

    backbone: runs T → t_cut, None for t_cut = T;  head: runs t_cut → 0, None for t_cut = 0;  labels: (N,) int32;
    seed: of the noise. The same seed starts every set-up from the same noise.
    head_starts_at: the step that the head is told it starts from, if that is not t_cut (a rival patches its hand-off so).
    """
    parts = [
        _batch(schedule, backbone, head, t_cut, labels, rows, steps, shape, seed, head_starts_at)
        for rows in np.array_split(np.arange(len(labels)), max(1, -(-len(labels) // BATCH)))
    ]
    at_cut, finished = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return Generated(at_cut, finished, labels)


def _batch(
    schedule: NoiseSchedule,
    backbone: UNet | None,
    head: UNet | None,
    t_cut: int,
    labels: NDArray[np.int32],
    rows: NDArray[np.intp],
    steps: StepPlan,
    shape: tuple[int, int, int],
    seed: int,
    head_starts_at: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x = torch.from_numpy(initial_noise(seed, rows, schedule.T, shape))
    label = torch.from_numpy(labels[rows].astype(np.int64))
    if backbone is not None:
        x = run_part(schedule, backbone, x, label, (schedule.T, t_cut, steps.server_steps), steps, seed, rows)
    at_cut = x.numpy().copy()
    if head is not None:
        start = t_cut if head_starts_at is None else head_starts_at
        x = run_part(schedule, head, x, label, (start, 0, steps.head_steps), steps, seed, rows)
    return at_cut, x.numpy()


def run_part(
    schedule: NoiseSchedule,
    network: UNet,
    x: Tensor,
    label: Tensor,
    part: tuple[int, int, int],
    steps: StepPlan,
    seed: int,
    rows: Any,
) -> Tensor:
    """One side's part of the chain: x, (B, C, H, W) float32, at its end.

    label: (B,) int64;  part: (start, stop, network evaluations);  rows: (B,) int, which samples' noise is drawn.
    """
    start, stop, evaluations = part

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode():
            noise: Tensor = network(x_t, t, label)
        return noise

    return run(
        schedule,
        predict,
        x,
        plan(schedule, start, stop, evaluations, steps.spacing),
        steps.sampler,
        eta=steps.eta,
        clip=steps.clip,
        seeds=seed,
        samples=rows,
    ).clone()
