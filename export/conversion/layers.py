"""Which nodes of an exported network are what, for those who change its arithmetic."""

import onnx


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions in the order in which they run."""
    return [node for node in model.graph.node if node.op_type == "Conv"]


def pointwise(model: onnx.ModelProto) -> list[str]:
    """The names of convolutions of 1×1: attention's projections, and shortcuts."""
    kernels = {tensor.name: tuple(tensor.dims[2:]) for tensor in model.graph.initializer}
    return [node.name for node in convolutions(model) if kernels.get(node.input[1]) == (1, 1)]
