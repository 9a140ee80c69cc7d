"""The noise of `diffusion.noise`, made where the samples are.

Most of the work is turning bits into normals. On a GPU that happens there: the host only draws the bits of the addressed stream.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion.arrays import Int64
from diffusion.noise import noise_bits, sampling_noise

_MANTISSA = (1 << 53) - 1


def noise_on(
    device: torch.device, seeds: Int64, samples: Int64, steps: Int64, shape: tuple[int, int, int]
) -> Tensor:
    """What `sampling_noise` gives, on the device: (B, C, H, W) float32, equal to some 1e-7."""
    if device.type == "cpu":
        return torch.from_numpy(sampling_noise(seeds, samples, steps, shape))
    bits = noise_bits(seeds, samples, steps, shape)
    return normals_on(device, bits)[:, : math.prod(shape)].float().reshape(len(bits), *shape)


def normals_on(device: torch.device, bits: npt.NDArray[np.uint64]) -> Tensor:
    """Standard normals by Box & Muller's transform, as in `diffusion.noise.normals`.  (B, 2m) uint64 → (B, 2m) float64."""
    words = torch.from_numpy(bits.view(np.int64)).to(device)
    # torch shifts with the sign; the mask makes a shift without one of it.
    uniform = (((words >> 11) & _MANTISSA).double() + 0.5) * 2.0**-53
    half = bits.shape[1] // 2
    radius = torch.sqrt(-2 * torch.log(uniform[:, :half]))
    angle = 2 * math.pi * uniform[:, half:]
    return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), dim=1)
