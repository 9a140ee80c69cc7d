"""Images as the networks of others want them: three channels, bytes, or another size."""

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.errors import DataError


def as_tensor(images: NDArray[np.float32], channels: int | None = None) -> torch.Tensor:
    """(N, C, H, W) float32 in [-1, 1] as a tensor; of one channel repeated to `channels` where so many are wanted.

    Raises DataError where neither fits.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    if channels is None or tensor.shape[1] == channels:
        return tensor
    if tensor.shape[1] != 1:
        raise DataError(
            f"images of {tensor.shape[1]} channels do not fit a network for {channels}: give images of 1 or {channels}"
        )
    return tensor.repeat(1, channels, 1, 1)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Values in [-1, 1] as uint8 in 0..255, to the nearest."""
    return ((tensor + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def resized(tensor: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, C, H, W) float at another size, bilinear, with the filter that keeps a smaller one free of aliases."""
    if tensor.shape[-2:] == (height, width):
        return tensor
    return torch.nn.functional.interpolate(
        tensor, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
