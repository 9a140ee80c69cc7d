"""Standard normal noise with an address.

Sampling noise is a pure function of (seed, sample, step), so a sample comes out the same in whatever batch,
order or machine it is computed. The bits are Philox 4x64-10 (Salmon et al. 2011), a counter generator whose
stream numpy promises not to change; the way from bits to normals is Box & Muller's (1958), written here
because numpy's own may change between versions.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusion.arrays import Float32, Float64, Int64, on_host
from diffusion.errors import DiffusionError

UInt64 = npt.NDArray[np.uint64]

_STREAM = 0x636F6C6C61667573
"""Last word of the counter ("collafus"): keeps these streams apart from any other use of the same seed."""


def sampling_noise(seeds: Any, samples: Any, steps: Any, shape: tuple[int, ...]) -> Float32:
    """Fresh noise for one step of every sample.

    seeds: the request's seed, in [0, 2**63);  samples: the sample's index within its request, ≥ 0;  steps:
    the t the step starts from. Each an int or (B,) integers, at least one of them (B,).  shape: of one
    sample.

    Returns (B, *shape) float32, standard normal.
    """
    bits = noise_bits(seeds, samples, steps, shape)
    return normals(bits)[:, : math.prod(shape)].astype(np.float32).reshape(len(bits), *shape)


def noise_bits(seeds: Any, samples: Any, steps: Any, shape: tuple[int, ...]) -> UInt64:
    """The random bits that the noise of `sampling_noise` is made of, for whoever makes normals of them elsewhere.

    Arguments as there.  Returns (B, count) uint64, count the numbers of one sample, or one more where that is odd.
    """
    seed, sample, step = np.broadcast_arrays(
        *(np.atleast_1d(on_host(part)) for part in (seeds, samples, steps))
    )
    if bool((seed < 0).any() or (sample < 0).any() or (step < 0).any()):
        raise DiffusionError("noise is addressed by numbers of 0 or more: seed, sample and step")
    count = math.prod(shape)
    bits = np.empty((len(seed), count + count % 2), dtype=np.uint64)
    for row, address in zip(bits, _addresses(seed, sample, step), strict=True):
        row[:] = np.random.Philox(key=address[:2], counter=address[2:]).random_raw(len(row))
    return bits


def initial_noise(seeds: Any, samples: Any, T: int, shape: tuple[int, ...]) -> Float32:
    """x_T of every sample: the noise addressed by step T+1, which no step starts from. (B, *shape) float32."""
    return sampling_noise(seeds, samples, T + 1, shape)


def normals(bits: UInt64) -> Float64:
    """Standard normals from random bits, by Box & Muller's transform in float64.

    bits: (..., 2m) uint64.  Returns (..., 2m) float64 within ±8.7.
    """
    half = bits.shape[-1] // 2
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # inside (0, 1), never 0 or 1
    radius = np.sqrt(-2 * np.log(uniform[..., :half]))
    angle = 2 * np.pi * uniform[..., half:]
    result: Float64 = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)), axis=-1)
    return result


def _addresses(seed: Int64, sample: Int64, step: Int64) -> UInt64:
    """Philox's key (seed, sample) and counter (0, 0, step, stream) of every sample: (B, 6) uint64."""
    words = np.zeros((len(seed), 6), dtype=np.uint64)
    words[:, 0], words[:, 1], words[:, 4], words[:, 5] = seed, sample, step, _STREAM
    return words
