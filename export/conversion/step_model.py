"""The sampler's step as a network of ten operators, so that x need not leave the device between two calls.

A device has no onnx to build it with; the file that this makes is part of the agent.
"""

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

OPSET = 21
IR_VERSION = 10
_FACTORS = ("noise_scale", "signal_scale", "bound", "k_x", "k_0")


def step_model() -> bytes:
    """x_s = k_x·x_t + k_0·clip((x_t − √(1-ᾱ_t)·ε̂)/√ᾱ_t), the deterministic step of `diffusion.steps`.

    Inputs `x` and `eps` (B, C, H, W) float32 and `factors` (5,) float32: √(1-ᾱ_t), √ᾱ_t, the bound of the predicted
    image (inf for none), k_x and k_0. Output `x_next` (B, C, H, W) float32. The operations are in the order of the numpy
    path, so that both round alike.
    """
    image = ["B", "C", "H", "W"]
    nodes = [
        helper.make_node("Split", ["factors"], list(_FACTORS), num_outputs=len(_FACTORS)),
        helper.make_node("Mul", ["noise_scale", "eps"], ["noise"]),
        helper.make_node("Sub", ["x", "noise"], ["signal"]),
        helper.make_node("Div", ["signal", "signal_scale"], ["x0_free"]),
        helper.make_node("Neg", ["bound"], ["lower"]),
        helper.make_node("Max", ["x0_free", "lower"], ["x0_above"]),
        helper.make_node("Min", ["x0_above", "bound"], ["x0"]),
        helper.make_node("Mul", ["k_x", "x"], ["kept"]),
        helper.make_node("Mul", ["k_0", "x0"], ["drawn"]),
        helper.make_node("Add", ["kept", "drawn"], ["x_next"]),
    ]
    graph = helper.make_graph(
        nodes,
        "ddim_step",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, image),
            helper.make_tensor_value_info("eps", TensorProto.FLOAT, image),
            helper.make_tensor_value_info("factors", TensorProto.FLOAT, [len(_FACTORS)]),
        ],
        [helper.make_tensor_value_info("x_next", TensorProto.FLOAT, image)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(step_model())
