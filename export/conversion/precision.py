"""From a trained head to a network at the precision asked for that has passed both gates."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.bundle.bars import BARS
from export.bundle.gates import GateResult, Precision
from export.conversion.fidelity import check_fidelity
from export.conversion.half_precision import HalfPrecision
from export.conversion.onnx_export import export_onnx
from export.conversion.parity import check_parity
from export.conversion.quantisation import CALIBRATION_STEPS, calibration_inputs, quantise, rungs
from export.conversion.running import Exported, gate_providers
from export.conversion.trajectories import Trained
from export.errors import ParityFailed
from export.onnx_runtime import ort


@dataclass(frozen=True, eq=False)
class Converted:
    """An exported network and how it was found good.

    calibration, kept_in_float: see `Network`.
    """

    onnx: bytes
    gates: tuple[GateResult, ...]
    calibration: str | None = None
    kept_in_float: tuple[str, ...] = ()


def convert(
    head: Trained,
    precision: Precision,
    tell: Callable[[str], None],
    images: NDArray[np.float32] | None = None,
) -> Converted:
    """Export `head` at `precision` and measure it.

    images: (N, C, H, W) float32 in [-1, 1], of the kind the head was trained on; int8's ranges are measured on one half
    of them and every gate on the other. Without them the head's own images serve.

    Raises:
        ExportError: the network cannot be expressed at this precision.
        ParityFailed: it does not agree with the trained head well enough.
    """
    tell("exporting to ONNX")
    if precision == "int8":
        return _eight_bits(head, tell, images)
    onnx = export_onnx(head.network if precision == "fp32" else HalfPrecision(head.network))
    source = None if images is None else f"single steps measured on {len(images)} images, noised"
    return Converted(onnx, measure(head, onnx, precision, tell, images), source)


def measure(
    head: Trained,
    onnx: bytes,
    precision: Precision,
    tell: Callable[[str], None],
    images: NDArray[np.float32] | None = None,
) -> tuple[GateResult, ...]:
    """Pass `onnx` through both gates on every provider of this machine. Raises ParityFailed."""
    results = []
    for provider in gate_providers():
        exported = Exported(onnx, provider)
        tell(f"comparing single steps with torch ({provider})")
        step = check_parity(head, exported, BARS[precision], images)
        tell(f"comparing whole images with torch ({provider})")
        chains = check_fidelity(head, exported, BARS[precision])
        results.append(
            GateResult(
                provider=provider,
                step=step,
                chains=chains,
                onnxruntime=ort.__version__,
                torch=str(torch.__version__),
            )
        )
    return tuple(results)


def _eight_bits(head: Trained, tell: Callable[[str], None], images: NDArray[np.float32] | None) -> Converted:
    whole = export_onnx(head.network)
    seen, unseen = (None, None) if images is None else (images[::2], images[1::2])
    tell("running chains to calibrate int8")
    inputs = calibration_inputs(head, seen)
    has_labels = head.network.config.num_classes is not None
    source = (
        "the head's own chains from noise"
        if seen is None
        else f"{len(seen)} images, noised; single steps measured on {0 if unseen is None else len(unseen)} others"
    )
    calibration = f"{sum(len(batch.t) for batch in inputs)} states at {len(head.plan(CALIBRATION_STEPS)) - 1} steps of {source}"
    refused: ParityFailed | None = None
    for kept in rungs(whole):
        tell(f"quantising, with {len(kept)} convolutions kept in float")
        onnx = quantise(whole, inputs, kept, has_labels)
        try:
            return Converted(onnx, measure(head, onnx, "int8", tell, unseen), calibration, kept)
        except ParityFailed as error:
            refused = error
    assert refused is not None
    raise refused
