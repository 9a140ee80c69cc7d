"""A head in eight bits, for CPUs: convolutions in int8 with ranges measured on its own chains, the rest in float32.

Static QDQ: activations uint8 per tensor, weights int8 per channel. The norms, the attention's products and the
embedding stay in float: they take little of the time, and their ranges change with t.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export import onnx_runtime  # noqa: F401  # it has to come before whatever loads onnxruntime
from export.conversion.trajectories import Inputs, Trained, noised, states
from export.errors import ExportError

# isort: split
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

_CHAINS = 16
CALIBRATION_STEPS = 24
_SEED = 21


def calibration_inputs(head: Trained, images: NDArray[np.float32] | None = None) -> list[Inputs]:
    """What the ranges are measured on, over all t and all labels.

    images: (N, C, H, W) float32 in [-1, 1], noised to every part of the head's range; without them, the states of the
    head's own chains from noise at the cut.
    """
    count = max(_CHAINS, head.labels)
    if images is None:
        return [state for state in states(head, CALIBRATION_STEPS, count, _SEED) if state.t.any()]
    generator = np.random.Generator(np.random.PCG64(_SEED))
    inputs = []
    for t in head.plan(CALIBRATION_STEPS)[:-1]:
        chosen = generator.permutation(len(images))[:_CHAINS]
        t_all = np.full(len(chosen), t, np.int64)
        label = generator.integers(0, head.labels, len(chosen))
        inputs.append(Inputs(noised(head.schedule, images[chosen], t_all, generator), t_all, label))
    return inputs


def rungs(model: bytes) -> list[tuple[str, ...]]:
    """Which convolutions to keep in float, from few to many: the exporter takes the first that passes the gates.

    The first and the last see the image itself; the pointwise ones are attention's and cheap; the second half of the
    network is what errors are seen of most.
    """
    loaded = onnx.load_from_string(model)
    names = [node.name for node in convolutions(loaded)]
    ends = {names[0], names[-1]}
    narrow = ends | set(pointwise(loaded))
    late = narrow | set(names[len(names) // 2 :])
    return [tuple(name for name in names if name in kept) for kept in (ends, narrow, late)]


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions in the order in which they run."""
    return [node for node in model.graph.node if node.op_type == "Conv"]


def pointwise(model: onnx.ModelProto) -> list[str]:
    """The names of convolutions of 1×1: attention's projections, and shortcuts."""
    kernels = {tensor.name: tuple(tensor.dims[2:]) for tensor in model.graph.initializer}
    return [node.name for node in convolutions(model) if kernels.get(node.input[1]) == (1, 1)]


def quantise(model: bytes, inputs: Sequence[Inputs], kept: Sequence[str], has_labels: bool) -> bytes:
    """The network with its convolutions in eight bits, but for those named in `kept`.

    Raises:
        ExportError: onnxruntime cannot quantise it.
    """
    with tempfile.TemporaryDirectory() as directory, _quiet():
        whole, out = Path(directory, "whole.onnx"), Path(directory, "int8.onnx")
        whole.write_bytes(model)
        try:
            quantize_static(
                whole,
                out,
                _Reader(inputs, has_labels),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(kept),
                # Ranges from minima and maxima: histograms would hold every activation in memory.
                calibrate_method=CalibrationMethod.MinMax,
            )
        except (ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ExportError(f"the head cannot be quantised: {reason}; export fp32") from error
        return out.read_bytes()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the inputs to onnxruntime one batch after the other."""

    def __init__(self, inputs: Sequence[Inputs], has_labels: bool) -> None:
        self._feeds = iter([_feeds(batch, has_labels) for batch in inputs])

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        return next(self._feeds, None)


def _feeds(batch: Inputs, has_labels: bool) -> dict[str, NDArray[np.generic]]:
    feeds: dict[str, NDArray[np.generic]] = {"x": batch.x, "t": batch.t}
    return feeds | {"label": batch.label} if has_labels else feeds


@contextmanager
def _quiet() -> Iterator[None]:
    # The quantiser recommends a pre-processing that would take the group norms apart.
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
