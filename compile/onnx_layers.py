"""The layer table of an ONNX file that the compiler's graph cannot hold, from its nodes and their inferred shapes."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from compile.layers import Layer
from compile.onnx_ops.state import Translation, attribute

Shapes = dict[str, tuple[int, ...]]


def inferred_shapes(model: ModelProto) -> Shapes:
    """The shapes of values, as far as ONNX knows them; none at all where the model is too large or odd for that."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    found: Shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape") and all(sizes):
            found[value.name] = sizes
    return found


def file_layers(model: ModelProto, shapes: Shapes, opset: int) -> tuple[Layer, ...] | None:
    """Every convolution and linear layer, in the file's order.

    Args:
        model: for one picture, so that MACs are per picture.
        shapes: ``inferred_shapes(model)``.
        opset: the file's.

    Returns:
        ``None`` where the shape of one's result is not known.
    """
    names = Translation(opset, {})
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        tensor = weights.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if tensor is None:
            continue
        weight = np.asarray(numpy_helper.to_array(tensor), np.float32)
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
            weight = weight.swapaxes(-1, -2)
        result = shapes.get(node.output[0])
        if result is None:
            return None
        positions = math.prod(result) // len(weight)
        op = "conv2d" if node.op_type == "Conv" else "linear"
        nonzeros = int(np.count_nonzero(weight))
        layers.append(Layer(names.layer_name(node), op, weight, weight.size * positions, nonzeros * positions))
    return tuple(layers)
