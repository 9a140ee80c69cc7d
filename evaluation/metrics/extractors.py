"""What makes features of images, and may name them: a protocol, so that every metric takes whichever the user has."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import DataError
from evaluation.metrics.onnx_extractor import open_onnx
from evaluation.metrics.recogniser import load_recogniser
from evaluation.metrics.torchscript_extractor import open_torchscript


@runtime_checkable
class Extractor(Protocol):
    """Makes features of images. Figures of two extractors cannot be compared: say `name` beside each."""

    @property
    def name(self) -> str:
        """What it is and where it comes from, for people."""
        ...

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C, H, W) float32 in [-1, 1] → (N, d) float64."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Names images by label."""

    @property
    def name(self) -> str:
        """What it is and how well it does, for people."""
        ...

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.int32]:
        """(N, C, H, W) float32 in [-1, 1] → (N,) int32."""
        ...


def open_extractor(path: Path) -> Extractor:
    """The extractor in a local file: nothing is downloaded.

    `.pt`, `.pth` and `.torchscript` are TorchScript archives, `.onnx` is an ONNX model, `.safetensors` what `save_recogniser`
    has written. Raises DataError for a file that is missing, is of another kind, or does not hold what its name says.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}: give the weights of an extractor that you have here")
    openers: dict[str, Callable[[Path], Extractor]] = {
        ".pt": open_torchscript,
        ".pth": open_torchscript,
        ".torchscript": open_torchscript,
        ".onnx": open_onnx,
        ".safetensors": load_recogniser,
    }
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise DataError(f"{path} is no extractor by its name: give one of {', '.join(openers)}")
    return opener(path)
