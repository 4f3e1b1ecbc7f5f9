"""The layer table of an ONNX file that the compiler's graph cannot hold, from its nodes and a run of one batch."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from compile.layers import Layer
from compile.onnx_file import OnnxFile
from compile.onnx_ops.state import Translation, attribute
from compile.onnx_probe import Question, shapes


def file_layers(file: OnnxFile) -> tuple[tuple[Layer, ...], tuple[int, ...]]:
    """Every convolution and linear layer, in the file's order, with the MACs of one picture.

    Returns:
        They, and the shape of the first output.

    Raises:
        UserError: the file cannot be run.
    """
    nodes = [node for node in file.model.graph.node if _is_layer(node, file)]
    values = dict.fromkeys([*(node.output[0] for node in nodes), file.output_names[0]])
    batch = file.batch or 1
    found = shapes(Question(str(file.path), file.input_name, (batch, *file.shape), tuple(values)))
    names = Translation(file.opset, {})
    layers = []
    for node in nodes:
        weight = np.asarray(file.constants[node.input[1]], np.float32)
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
            weight = weight.swapaxes(-1, -2)
        positions = math.prod(found[node.output[0]]) // len(weight) // batch
        op = "conv2d" if node.op_type == "Conv" else "linear"
        nonzeros = int(np.count_nonzero(weight))
        layers.append(Layer(names.layer_name(node), op, weight, weight.size * positions, nonzeros * positions))
    return tuple(layers), found[file.output_names[0]]


def _is_layer(node: NodeProto, file: OnnxFile) -> bool:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
        return False
    weight = file.constants.get(node.input[1])
    return weight is not None and weight.ndim > 1 and weight.size > 0
