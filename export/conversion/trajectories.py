"""What a head meets in use: the states of its own chains, run by the trained network in torch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion import sampling
from diffusion.network import UNet
from diffusion.noise import initial_noise
from diffusion.plan import plan
from diffusion.schedule import NoiseSchedule

CLIP = 1.0
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained head as the exporter sees it: the network, its schedule, and the last step it owns."""

    network: UNet
    schedule: NoiseSchedule
    t_cut: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        config = self.network.config
        return config.in_channels, config.image_size, config.image_size

    @property
    def labels(self) -> int:
        """How many labels the network takes, "no label" among them."""
        return (self.network.config.num_classes or 0) + 1

    def plan(self, steps: int) -> tuple[int, ...]:
        """From the cut to the image in `steps` network calls, or in as many as there are steps."""
        return plan(self.schedule, self.t_cut, 0, min(steps, self.t_cut))

    def predict(self, inputs: "Inputs") -> NDArray[np.float32]:
        """ε_θ in single precision on the CPU: (B, C, H, W) float32."""
        label = torch.from_numpy(inputs.label) if self.network.config.num_classes is not None else None
        with torch.inference_mode():
            eps: NDArray[np.float32] = self.network(
                torch.from_numpy(inputs.x), torch.from_numpy(inputs.t), label
            ).numpy()
        return eps


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of network calls: x (B, C, H, W) float32, t (B,) int64, label (B,) int64."""

    x: NDArray[np.float32]
    t: NDArray[np.int64]
    label: NDArray[np.int64]


def start_of(head: Trained, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noise at the cut and a label each: x (count, C, H, W) float32, label (count,) int64, every label in turn."""
    samples = np.arange(count, dtype=np.int64)
    x = initial_noise(np.full(count, seed, np.uint64), samples, head.schedule.T, head.image_shape)
    return np.asarray(x, np.float32), samples % head.labels


def states(head: Trained, steps: int, count: int, seed: int) -> Iterator[Inputs]:
    """The states that DDIM chains of the trained network pass, in batches; the last has t = 0 and is the images."""
    x_all, label_all = start_of(head, count, seed)
    for first in range(0, count, _BATCH):
        label = label_all[first : first + _BATCH]
        seen: list[Inputs] = []

        def predict_eps(
            x: Tensor, t: Tensor, label: NDArray[np.int64] = label, seen: list[Inputs] = seen
        ) -> Tensor:
            seen.append(Inputs(x.numpy().copy(), t.numpy().copy(), label))
            return torch.from_numpy(head.predict(seen[-1]))

        start = torch.from_numpy(x_all[first : first + _BATCH])
        images = sampling.run(head.schedule, predict_eps, start, head.plan(steps), clip=CLIP)
        yield from seen
        yield Inputs(images.numpy(), np.zeros(len(label), np.int64), label)


def images_of(head: Trained, steps: int, count: int, seed: int) -> NDArray[np.float32]:
    """Whole images of the trained network from noise at the cut: (count, C, H, W) float32 in [-1, 1]."""
    return np.concatenate([state.x for state in states(head, steps, count, seed) if not state.t.any()])


def noised(
    schedule: NoiseSchedule, x0: NDArray[np.float32], t: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float32]:
    """x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε of images (B, C, H, W) at t (B,): float32."""
    alpha_bar = schedule.alpha_bar[t][:, None, None, None]
    x = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * generator.standard_normal(x0.shape)
    return np.asarray(x, np.float32)
