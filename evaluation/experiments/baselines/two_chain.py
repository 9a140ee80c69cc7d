"""PFDM's scheme of two chains (Patel, Zhang & Wang, arXiv 2504.00952, CVPR 2026, algorithms 1 and 2).

A client clips its images, runs t_0 steps of the forward chain on each, and sends what comes out, once. The server takes these
noisy images for its data and trains a shared denoiser on them by DDPM's plain loss over a *whole* chain of T steps, so that it
runs from noise to noisy images: a chain of its own beside the client's. Images are made by all T steps of the shared denoiser
and then t_0 steps of the client's own, which is trained on its clean images and never leaves it. In this system the server's
network continues the client's chain instead, and runs its last T - t_c steps only.

Assumed, where the descriptions at hand say nothing or differ:

- t_0 is the cut, and both chains have the same schedule. Images are not clipped beyond [-1, 1], as for this system.
- The client's denoiser learns the steps 1 … t_0 only, which are those it is used at (one description trains it on the whole
  chain): so it is this system's head.
- Labels condition both denoisers (the paper takes labels as public).
- Samplers, step plans and the optimiser are those of all rivals, not the paper's. The bound on x̂_0 is wider on the server's
  chain, whose "clean" images are noisy ones.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion.network import UNet
from diffusion.noise import initial_noise
from diffusion.schedule import NoiseSchedule
from evaluation.data.images import LabelledImages
from evaluation.running.federation import Federation
from evaluation.running.fitting import Tell
from evaluation.running.generation import BATCH, Generated, StepPlan, run_part
from evaluation.running.trainings import BackboneTraining, Budget, Trained, trained_on_images

_DEVIATIONS = 4.0
"""How many of the noise of a release the bound on its estimate leaves room for."""
_HEAD_SEED = 1 << 40
"""Added for the head's noise: beyond any seed that an evaluation has."""


@dataclass(frozen=True)
class TwoChainTraining:
    """The shared denoiser, from one release of every image at t_0 = t_c, over the whole chain."""

    cut_ratio: float
    budget: Budget
    seed: int

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        return f"second chain over cut {self.cut_ratio:g}"

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all."""
        return self.budget.updates

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains on the same releases as this system's backbone of this cut, taken for clean images."""
        x_c, labels = BackboneTraining(self.cut_ratio, self.budget, self.seed).samples(federation)
        data = LabelledImages(x_c, labels)
        return trained_on_images(federation, data, federation.schedule.T, self.budget, self.seed, tell)


def generate_by_two_chains(
    schedule: NoiseSchedule,
    shared: UNet,
    head: UNet,
    t_cut: int,
    labels: NDArray[np.int32],
    steps: StepPlan,
    *,
    shape: tuple[int, int, int],
    seed: int,
) -> Generated:
    """Makes one image for each label: the shared chain from T to 0, whose end is taken for step t_cut of the head's chain.

    Arguments as of `generation.generate`.
    """
    at_cut, finished = [], []
    for rows in np.array_split(np.arange(len(labels)), max(1, -(-len(labels) // BATCH))):
        x = torch.from_numpy(initial_noise(seed, rows, schedule.T, shape))
        label = torch.from_numpy(labels[rows].astype(np.int64))
        wide = replace(steps, clip=release_bound(schedule, t_cut))
        x = run_part(schedule, shared, x, label, (schedule.T, 0, steps.server_steps), wide, seed, rows)
        at_cut.append(x.numpy().copy())
        # Another seed: for a sampler that draws noise the head must not draw the shared chain's again.
        x = run_part(schedule, head, x, label, (t_cut, 0, steps.head_steps), steps, seed + _HEAD_SEED, rows)
        finished.append(x.numpy())
    return Generated(np.concatenate(at_cut), np.concatenate(finished), labels)


def release_bound(schedule: NoiseSchedule, t_cut: int) -> float:
    """Within which a release of an image in [-1, 1] lies, but for one value in some ten thousand."""
    alpha_bar = float(schedule.alpha_bar[t_cut])
    return float(alpha_bar**0.5 + _DEVIATIONS * (1 - alpha_bar) ** 0.5)
