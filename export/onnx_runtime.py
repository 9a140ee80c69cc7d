"""onnxruntime, told to keep to itself before it is loaded.

Its published wheels report to their maker over HTTPS, under an identifier that they keep in the user's cache together with what
could not be sent yet. A device says nothing to anybody but its broker, so everybody takes onnxruntime from here.
"""

import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = (
    "1"  # read once, when the library begins; inherited by the processes begun from here
)

import onnxruntime as ort

__all__ = ["ort", "quantisation_tools"]


def quantisation_tools() -> Any:
    """Onnxruntime's module that makes int8 networks; it brings onnx, which a device does without."""
    from onnxruntime import quantization  # noqa: PLC0415

    return quantization
