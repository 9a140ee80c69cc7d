"""What a training step draws, as a function of the seed and the step's number alone.

No generator runs along with the training: a step can be taken again, by another process, on any number of ranks. Steps t and
noises ε_s are drawn in blocks of 16 samples of the global batch, so that a rank draws its own blocks and nothing else, and all
ranks together draw what a single one would.
"""

import numpy as np
import torch
from torch import Tensor

from server_worker.settings import BLOCK_SAMPLES

_PICKS, _BLOCKS = 0, 1


def picks(seed: int, step: int) -> np.random.Generator:
    """The generator that chooses step `step`'s samples from the store."""
    return np.random.default_rng([seed, step, _PICKS])


def draw(
    seed: int, step: int, rows: range, shape: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where t lies between its bounds, and the noise, for some samples of the global batch.

    rows: positions in the global batch, from the first of a block; shape: (C, H, W).

    Returns (u (B,) float64 in [0, 1), ε_s (B, C, H, W) float32), both on `device`.
    """
    places = torch.empty(len(rows), dtype=torch.float64, device=device)
    noise = torch.empty((len(rows), *shape), device=device)
    generator = torch.Generator(device)
    for first in range(0, len(rows), BLOCK_SAMPLES):
        generator.manual_seed(_mixed(seed, step, (rows.start + first) // BLOCK_SAMPLES))
        block = slice(first, first + BLOCK_SAMPLES)
        torch.rand(places[block].shape, generator=generator, out=places[block])
        torch.randn(noise[block].shape, generator=generator, out=noise[block])
    return places, noise


def _mixed(seed: int, step: int, block: int) -> int:
    """One number of 63 bits out of three; neighbours have nothing in common."""
    state = np.random.SeedSequence([seed, step, _BLOCKS, block]).generate_state(1, np.uint64)
    return int(state[0]) >> 1
