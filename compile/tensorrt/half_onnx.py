"""Writes the compiler's graph as a strongly typed fp16 ONNX model whose nodes bear the names of the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compile.graph import AdaptivePool, Concat, Conv, Elementwise, Graph, LayerNorm, Mean, Pool, Resize, refuse_others
from compile.half import as_half
from compile.tensorrt import windows

OPSET = 20  # the first with Gelu; TensorRT 10 and 11 read it
_IR_VERSION = 10


class HalfWriter:
    """Collects nodes and fp16 weights; each method returns the name of the value that it makes."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, NDArray[np.generic]] = {}
        self.names: Counter[str] = Counter()

    def node(self, op: str, inputs: list[str], output: str, name: str, **attributes: Any) -> str:
        """Add a node. A name that is taken (a layer that runs twice) gets a number behind it."""
        self.names[name] += 1
        unique = name if self.names[name] == 1 else f"{name}#{self.names[name]}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=unique, **attributes))
        return output

    def half(self, name: str, values: NDArray[np.float32] | float) -> str:
        """An fp16 constant; a name that is taken holds the same values."""
        self.weights[name] = as_half(np.asarray(values, np.float32))
        return name

    def integers(self, *values: int) -> str:
        """A constant of int64, as axes and bounds are given."""
        name = f"int_{'_'.join(map(str, values))}"
        self.weights[name] = np.array(values, np.int64)
        return name

    def activation(self, kind: str, source: str, output: str, name: str) -> str:
        """``kind`` as ``compile.graph.Activation`` names it; ``identity`` has no node and returns ``source``."""
        if kind == "identity":
            return source
        if kind == "relu6":
            bounds = [self.half("zero", 0.0), self.half("six", 6.0)]
            return self.node("Clip", [source, *bounds], output, name)
        if kind == "silu":
            gate = self.node("Sigmoid", [source], f"{output}/gate", f"{name}/gate")
            return self.node("Mul", [source, gate], output, name)
        op, attributes = _ACTIVATIONS[kind]
        return self.node(op, [source], output, name, **attributes)


_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "hardswish": ("HardSwish", {}),
    "sigmoid": ("Sigmoid", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "tanh": ("Tanh", {}),
}


def refuse_unknown(graph: Graph) -> None:
    """A ``UserError`` where a node (attention, a move of pixels) cannot be written by ``half_model``."""
    refuse_others(graph, _WRITERS, "the writer of fp16 models")


def half_model(graph: Graph, batch_size: int, input_name: str, output_names: Sequence[str]) -> ModelProto:
    """Write a graph for a batch size.

    Input and outputs stay float32, as the artifact's manifest has them; a cast at either end is part of the network, so
    that the engine's caller knows nothing of fp16. The answers keep the graph's shapes ``(B, C, H, W)``.
    """
    writer = HalfWriter()
    for node in graph.nodes:
        _WRITERS[type(node)](writer, node, graph)
    # the graph's own input and output may bear the names that the casts' other sides need
    taken = {name: f"{name}/half" for name in (input_name, *output_names, graph.input, *graph.outputs)}
    for made in writer.nodes:
        for names in (made.input, made.output):
            names[:] = [taken.get(name, name) for name in names]
    body = writer.nodes
    writer.nodes = []
    writer.node("Cast", [input_name], taken[graph.input], "input/cast", to=TensorProto.FLOAT16)
    writer.nodes += body
    results = []
    for name, value in zip(output_names, graph.outputs, strict=True):
        writer.node("Cast", [taken[value]], name, "output/cast", to=TensorProto.FLOAT)
        results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch_size, *graph.shapes[value])))
    shape = (batch_size, *graph.shapes[graph.input])
    described = helper.make_graph(
        writer.nodes,
        "st3",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, shape)],
        results,
        [numpy_helper.from_array(values, name) for name, values in writer.weights.items()],
    )
    return helper.make_model(described, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)


def _conv(writer: HalfWriter, node: Conv, graph: Graph) -> None:
    """``activation(conv + bias + residual) * factor``, one node each, all named after the layer."""
    del graph
    name = node.layer or node.output
    steps = [step for step in ("conv", "add", "act", "mul") if _has(node, step)]
    # the last step makes the node's value, those before it values of their own
    made = {step: node.output if step == steps[-1] else f"{node.output}/{step}" for step in steps}
    value = writer.node(
        "Conv",
        [node.input, writer.half(f"{node.output}/weight", node.weight), writer.half(f"{node.output}/bias", node.bias)],
        made["conv"],
        name,
        kernel_shape=list(node.weight.shape[2:]),
        strides=list(node.stride),
        pads=list(node.padding),
        dilations=list(node.dilation),
        group=node.groups,
    )
    if node.residual is not None:
        value = writer.node("Add", [value, node.residual], made["add"], f"{name}/add")
    if "act" in made:
        value = writer.activation(node.activation, value, made["act"], f"{name}/{node.activation}")
    if node.factor is not None:
        writer.node("Mul", [value, node.factor], made["mul"], f"{name}/mul")


def _has(node: Conv, step: str) -> bool:
    present = {
        "conv": True,
        "add": node.residual is not None,
        "act": node.activation != "identity",
        "mul": node.factor is not None,
    }
    return present[step]


def _elementwise(writer: HalfWriter, node: Elementwise, graph: Graph) -> None:
    del graph
    value = node.left
    if node.right is not None:
        plain = node.activation == "identity"
        made = node.output if plain else f"{node.output}/{node.op}"
        value = writer.node("Add" if node.op == "add" else "Mul", [value, node.right], made, made)
    if node.activation != "identity":
        writer.activation(node.activation, value, node.output, f"{node.output}/{node.activation}")


def _concat(writer: HalfWriter, node: Concat, graph: Graph) -> None:
    del graph
    writer.node("Concat", list(node.inputs), node.output, node.output, axis=1)


def _mean(writer: HalfWriter, node: Mean, graph: Graph) -> None:
    del graph
    writer.node("GlobalAveragePool", [node.input], node.output, node.output)


def _pool(writer: HalfWriter, node: Pool, graph: Graph) -> None:
    del graph
    windows.pool(writer, node)


def _adaptive_pool(writer: HalfWriter, node: AdaptivePool, graph: Graph) -> None:
    windows.adaptive_pool(writer, node, graph.shapes[node.input])


def _resize(writer: HalfWriter, node: Resize, graph: Graph) -> None:
    """Two products with matrices."""
    del graph
    rows = writer.half(f"{node.output}/row_weights", node.rows)
    columns = writer.half(f"{node.output}/column_weights", np.ascontiguousarray(node.columns.T))
    made = writer.node("MatMul", [rows, node.input], f"{node.output}/rows", f"{node.output}/rows")
    writer.node("MatMul", [made, columns], node.output, node.output)


def _layer_norm(writer: HalfWriter, node: LayerNorm, graph: Graph) -> None:
    """ONNX normalises the last axes, so the channels go there and back; the sums are float32 (``stash_type`` 1)."""
    del graph
    last = writer.node("Transpose", [node.input], f"{node.output}/last", f"{node.output}/last", perm=[0, 2, 3, 1])
    weight = writer.half(f"{node.output}/weight", node.weight)
    bias = writer.half(f"{node.output}/bias", node.bias)
    made = f"{node.output}/normed"
    writer.node(
        "LayerNormalization", [last, weight, bias], made, node.output, axis=-1, epsilon=node.epsilon, stash_type=1
    )
    writer.node("Transpose", [made], node.output, f"{node.output}/first", perm=[0, 3, 1, 2])


_WRITERS: dict[type, Callable[..., None]] = {
    Conv: _conv,
    Pool: _pool,
    AdaptivePool: _adaptive_pool,
    Mean: _mean,
    Elementwise: _elementwise,
    Concat: _concat,
    LayerNorm: _layer_norm,
    Resize: _resize,
}
