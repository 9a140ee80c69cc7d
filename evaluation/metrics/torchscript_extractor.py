"""Features of a TorchScript archive, such as NVIDIA's Inception (inception-2015-12-05.pt) in which published FIDs are given."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.errors import DataError
from evaluation.metrics.pixels import as_bytes, as_tensor

_AT_ONCE = 64
_WANTS_FEATURES = "return_features"
"""The argument of an archive that classifies unless told otherwise."""


@dataclass(frozen=True, eq=False)
class TorchScriptExtractor:
    """An archive and how it is called.

    One that takes `return_features` is called so, with (N, 3, H, W) uint8, and resizes them itself, as NVIDIA's does. Any other
    is given (N, 3, H, W) float32 in [-1, 1] at the images' own size. Grey images are repeated to three channels.
    """

    name: str
    archive: torch.jit.ScriptModule
    takes_bytes: bool

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C, H, W) float32 in [-1, 1], C 1 or 3 → (N, d) float64. Raises DataError when the archive gives anything else."""
        tensor = as_tensor(images, 3)
        with torch.inference_mode():
            parts = [
                self._call(tensor[start : start + _AT_ONCE]) for start in range(0, len(tensor), _AT_ONCE)
            ]
        return torch.cat(parts).double().numpy()

    def _call(self, batch: torch.Tensor) -> torch.Tensor:
        try:
            found = (
                self.archive(as_bytes(batch), **{_WANTS_FEATURES: True})
                if self.takes_bytes
                else self.archive(batch)
            )
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise DataError(
                f"{self.name} cannot take images of shape {tuple(batch.shape)}: {last}; give it such as it was made for"
            ) from error
        if not isinstance(found, torch.Tensor) or found.shape[:1] != batch.shape[:1] or found[0].numel() < 2:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise DataError(
                f"{self.name} gives {shape} for {len(batch)} images: an extractor gives one vector of features for each"
            )
        return found.reshape(len(batch), -1).float()


def open_torchscript(path: Path) -> TorchScriptExtractor:
    """Load an archive onto the CPU. It is a program: open only files you trust. Raises DataError when it is none."""
    try:
        with warnings.catch_warnings():
            # PyTorch would rather see torch.export, in which nobody publishes Inception.
            warnings.filterwarnings("ignore", message=".*torch.jit.load.*", category=DeprecationWarning)
            archive = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
        arguments = [argument.name for argument in archive.forward.schema.arguments]
    except (RuntimeError, AttributeError) as error:
        raise DataError(
            f"{path} is no TorchScript archive: a file of bare weights lacks the network; give one saved by torch.jit.save"
        ) from error
    return TorchScriptExtractor(f"TorchScript {path.name}", archive, _WANTS_FEATURES in arguments)
