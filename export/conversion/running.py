"""An exported network under onnxruntime, as the gates and the calibration run it."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.conversion.trajectories import Inputs
from export.errors import ParityFailed
from export.onnx_runtime import ort

GateProvider = Literal["cpu", "cuda"]
_NAMES: dict[GateProvider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Exported:
    """A session on one provider, one thread.

    onnx: the serialised network, see `Bundle.onnx`.  Raises ParityFailed when onnxruntime cannot load it there.
    """

    def __init__(self, onnx: bytes, provider: GateProvider = "cpu") -> None:
        self.provider: GateProvider = provider
        self._session = _session(onnx, _NAMES[provider])
        self._has_labels = len(self._session.get_inputs()) > 2

    def predict(self, inputs: Inputs) -> NDArray[np.float32]:
        """ε: (B, C, H, W) float32."""
        feeds = {"x": inputs.x, "t": inputs.t}
        if self._has_labels:
            feeds["label"] = inputs.label
        eps: NDArray[np.float32] = self._session.run(["eps"], feeds)[0]
        return eps


def gate_providers() -> tuple[GateProvider, ...]:
    """Where a head can be measured on this machine: the CPU, and CUDA where onnxruntime has it."""
    return ("cpu", "cuda") if _NAMES["cuda"] in ort.get_available_providers() else ("cpu",)


def _session(onnx: bytes, provider: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(onnx, options, providers=[provider])
    except Exception as error:
        # onnxruntime's own exceptions share no public root.
        reason = str(error).strip().splitlines()[0]
        raise ParityFailed(
            f"onnxruntime cannot load the exported head: {reason}; no bundle was written"
        ) from error
    if session.get_providers()[0] != provider:
        raise ParityFailed(f"onnxruntime did not load the exported head on {provider}; repair CUDA")
    return session
