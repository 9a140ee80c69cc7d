"""Where the samples that run lie on the device: rows of two tensors, so that any mixture of them is one gather away."""

import numpy as np
import torch
from torch import Tensor

from diffusion.arrays import Float32, Int64

_FIRST_ROWS = 64


class Arena:
    """Samples of one shape.

    x: (rows, C, H, W) float32, where each sample is.  x0: like x, its prediction before, zeros until there is one.
    """

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.x: Tensor = torch.zeros((_FIRST_ROWS, *shape), device=device)
        self.x0: Tensor = torch.zeros_like(self.x)
        self._free = np.arange(_FIRST_ROWS, dtype=np.int64)

    @property
    def occupied(self) -> int:
        """Rows in use."""
        return len(self.x) - len(self._free)

    def put(self, samples: Tensor) -> Int64:
        """Place new samples, (k, C, H, W) float32 on the device; returns their rows, (k,)."""
        while len(self._free) < len(samples):
            self._grow()
        rows, self._free = np.split(self._free, [len(samples)])
        index = torch.from_numpy(rows).to(self.x.device)
        self.x.index_copy_(0, index, samples)
        self.x0.index_fill_(0, index, 0.0)
        return rows

    def read(self, rows: Int64) -> Float32:
        """Some samples on the host: (k, C, H, W) float32."""
        samples: Float32 = self.x.index_select(0, torch.from_numpy(rows).to(self.x.device)).cpu().numpy()
        return samples

    def free(self, rows: Int64) -> None:
        """Give rows back."""
        self._free = np.concatenate((self._free, rows))

    def _grow(self) -> None:
        rows = len(self.x)
        self.x = torch.cat((self.x, torch.zeros_like(self.x)))
        self.x0 = torch.cat((self.x0, torch.zeros_like(self.x0)))
        self._free = np.concatenate((self._free, np.arange(rows, 2 * rows)))
