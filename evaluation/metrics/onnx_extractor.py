"""Features of an ONNX model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import DataError
from evaluation.metrics.pixels import as_bytes, as_tensor, resized
from export.onnx_runtime import ort

_AT_ONCE = 64
_TYPES = ("tensor(float)", "tensor(uint8)")


@dataclass(frozen=True, eq=False)
class OnnxExtractor:
    """A model of one input (N, C, H, W), whose first output is the features.

    channels, height, width: what the input fixes, else None; images are repeated and resized to it. An input of uint8 is given
    0..255, one of float32 is given [-1, 1].
    """

    name: str
    session: Any
    channels: int | None
    height: int | None
    width: int | None
    takes_bytes: bool

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C, H, W) float32 in [-1, 1] → (N, d) float64. Raises DataError when the model cannot."""
        tensor = as_tensor(images, self.channels)
        tensor = resized(tensor, self.height or tensor.shape[2], self.width or tensor.shape[3])
        whole = (as_bytes(tensor) if self.takes_bytes else tensor).numpy()
        return np.concatenate(
            [self._call(whole[start : start + _AT_ONCE]) for start in range(0, len(whole), _AT_ONCE)]
        )

    def _call(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        try:
            found = self.session.run(None, {self.session.get_inputs()[0].name: batch})[0]
        except Exception as error:  # onnxruntime's errors have no class of their own above Exception
            raise DataError(
                f"{self.name} cannot take {batch.dtype} images of shape {batch.shape}: export it with a free batch axis"
            ) from error
        if np.ndim(found) < 2 or len(found) != len(batch) or np.size(found[0]) < 2:
            raise DataError(
                f"{self.name} gives {np.shape(found)} for {len(batch)} images: "
                "its first output must be one vector of features for each"
            )
        flat: NDArray[np.float64] = np.asarray(found, dtype=np.float64).reshape(len(batch), -1)
        return flat


def open_onnx(path: Path) -> OnnxExtractor:
    """Load a model onto the CPU. Raises DataError when it is none, or has another input than one of images."""
    try:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise DataError(f"{path} is no ONNX model that onnxruntime can load: export it again") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
        given = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise DataError(f"{path} takes {given}: give a model of one input (N, C, H, W) of float32 or uint8")
    channels, height, width = (size if isinstance(size, int) else None for size in inputs[0].shape[1:])
    return OnnxExtractor(
        f"ONNX {path.name}", session, channels, height, width, inputs[0].type == "tensor(uint8)"
    )
