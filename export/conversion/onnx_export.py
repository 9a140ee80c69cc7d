"""From a trained torch head to one ONNX file with a free batch size."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch

from diffusion.network import UNet
from export.conversion.half_precision import HalfPrecision
from export.errors import ExportError

# At 20 a group norm becomes an InstanceNormalization between two reshapes, for which onnxruntime has a kernel. From 21 on it
# stays one operator, which onnxruntime takes apart into some thirty: a sixth more time a step at batch 1.
OPSET = 20
# Two, because the exporter would take a batch of one for a constant.
_EXAMPLE_BATCH = 2


def export_onnx(network: UNet | HalfPrecision, opset: int = OPSET) -> bytes:
    """The network as a self-contained ONNX model.

    Inputs `x` (B, C, H, W) float32, `t` (B,) int64 and, for a conditional network, `label` (B,) int64; output `eps`
    (B, C, H, W) float32. `B` is free. Nothing of the exporting machine (paths, stack traces) stays in the model.

    Raises:
        ExportError: the network cannot be expressed in ONNX, or the result fails onnx's own checker; or it takes a vector
            condition, for which a device has no input.
    """
    if network.config.condition_size is not None:
        raise ExportError(
            f"the head takes a condition of {network.config.condition_size} numbers, which no device can give it: "
            "train one with labels, or with nothing"
        )
    inputs = _example_inputs(network)
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                network.eval(),
                tuple(inputs.values()),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=list(inputs),
                output_names=["eps"],
                dynamic_shapes={name: {0: batch} for name in inputs},
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
        _strip(model)
        onnx.checker.check_model(model, full_check=True)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"the head cannot be exported to ONNX: {reason}; change the network") from error
    return bytes(model.SerializeToString())


def _example_inputs(network: UNet | HalfPrecision) -> dict[str, torch.Tensor]:
    config = network.config
    shape = (_EXAMPLE_BATCH, config.in_channels, config.image_size, config.image_size)
    inputs = {"x": torch.zeros(shape), "t": torch.ones(_EXAMPLE_BATCH, dtype=torch.int64)}
    if config.num_classes is not None:
        inputs["label"] = torch.zeros(_EXAMPLE_BATCH, dtype=torch.int64)
    return inputs


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    # It warns of an absent torchvision and of its own deprecated internals; what matters it raises.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    # The exporter notes a stack trace with file names at every node.
    model.doc_string = ""
    graph = model.graph
    graph.doc_string = ""
    places = [model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]
    for function in model.functions:
        places += [function, *function.node, *function.value_info]
    for place in places:
        del place.metadata_props[:]
        place.doc_string = ""
