"""From stored samples to what the network is trained on, whether they are releases or pairs made by the device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.schedule import NoiseSchedule
from diffusion.split import pair
from server_worker.samples.batch import NO_LABEL
from server_worker.samples.store import SampleBatch


@dataclass(frozen=True, eq=False)
class Pairs:
    """Samples on the chain, each with the noise to predict.

    x_t, noise: (B, C, H, W) float32;  t, t_cut: (B,) int64, t_cut < t ≤ T;  label: (B,) int64 in [0, K], or None.
    """

    x_t: Tensor
    noise: Tensor
    t: Tensor
    t_cut: Tensor
    label: Tensor | None

    def part(self, rows: slice) -> "Pairs":
        """Some of them."""
        label = None if self.label is None else self.label[rows]
        return Pairs(self.x_t[rows], self.noise[rows], self.t[rows], self.t_cut[rows], label)


def pairs_of(
    batch: SampleBatch, schedule: NoiseSchedule, places: Tensor, noise: Tensor, num_classes: int | None
) -> Pairs:
    """Put every release on the chain at its own t; a sample that came as a pair stays what it is.

    places: (B,) float64 in [0, 1), where t lies in (t_cut, T];  noise: (B, C, H, W) float32, ε_s;  both on the device
    that the pairs are wanted on.

    Raises DiffusionError when the cut of a sample leaves no step above it.
    """
    device = noise.device
    if bool((batch.t_cut >= schedule.T).any()):
        raise DiffusionError(
            "no step lies above the cut of some samples: there is nothing to learn from them"
        )
    x, t_cut = (torch.from_numpy(values).to(device) for values in (batch.x, batch.t_cut))
    t = t_cut + 1 + (places * (schedule.T - t_cut)).long()
    is_pair = torch.from_numpy(batch.t > 0).to(device)
    came_as_pairs = bool((batch.t > 0).any())
    if came_as_pairs:
        t = torch.where(is_pair, torch.from_numpy(batch.t).to(device), t)
        noise = torch.where(_wide(is_pair), torch.from_numpy(batch.noise).to(device), noise)
    x_t = pair(schedule, x, t_cut, t, noise)
    if came_as_pairs:
        x_t = torch.where(_wide(is_pair), x, x_t)
    return Pairs(x_t, noise, t, t_cut, _labels(batch, num_classes, device))


def _wide(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]


def _labels(batch: SampleBatch, num_classes: int | None, device: torch.device) -> Tensor | None:
    if num_classes is None:
        return None
    return torch.from_numpy(np.where(batch.labels == NO_LABEL, num_classes, batch.labels)).to(device)
