"""Builds small ONNX files, exports modules, and compares what the compiler reads in them with ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from graph_interpreter import run_graph
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from compile.from_onnx import read_graph
from compile.graph import Graph
from compile.onnx_file import read_onnx

OPSETS = (13, 17, 18, 20, 23)


class Builder:
    """Collects nodes and weights; each method returns the name of the value it makes."""

    def __init__(self, opset: int = 18, seed: int = 0) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, NDArray] = {}
        self.random = np.random.default_rng(seed)

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value, dtype)
        return name

    def shape(self, *sizes: int) -> str:
        return self.constant(sizes, np.int64)

    def normal(self, *sizes: int) -> str:
        """Random weights with zeros among them."""
        values = self.random.standard_normal(sizes) * (self.random.random(sizes) < 0.7)
        return self.constant(values)

    def conv(self, source: str, inputs: int, outputs: int, kernel: int = 3, **attributes: object) -> str:
        attributes = {"pads": [kernel // 2] * 4} | attributes
        groups = int(attributes.get("group", 1))
        return self.node(
            "Conv", source, self.normal(outputs, inputs // groups, kernel, kernel), self.normal(outputs), **attributes
        )

    def axes(self, op: str, source: str, axes: Sequence[int], **attributes: object) -> str:
        """A reduction, whose axes are an attribute before opset 18."""
        if self.opset < 18:
            return self.node(op, source, axes=list(axes), **attributes)
        return self.node(op, source, self.shape(*axes), **attributes)

    def model(self, output: str, shape: Sequence[int | str | None] = ("N", 3, 9, 7)) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def agree(model: ModelProto, path: Path, batch_size: int = 2, seed: int = 0) -> Graph:
    """Read a model for a batch size; its graph must answer like ONNX Runtime. Returns the graph."""
    onnx.save(model, path)
    file = read_onnx(path)
    graph = read_graph(file, batch_size)
    inputs = np.random.default_rng(seed).standard_normal((batch_size, *file.shape)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {file.input_name: inputs})
    result = run_graph(graph, inputs).reshape(expected.shape)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5 * max(1.0, float(np.abs(expected).max())))
    return graph


def export(
    module: nn.Module, shape: Sequence[int], path: Path, opset: int, dynamo: bool, batch_size: int | None = None
) -> None:
    """Write a module with one of torch's exporters; ``batch_size`` fixes the batch, which is dynamic otherwise."""
    options: dict[str, object] = {"dynamo": dynamo, "opset_version": opset}
    if batch_size is None and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif batch_size is None:
        options |= {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters' own internals
        torch.onnx.export(module.eval(), (torch.randn(batch_size or 2, *shape),), path, verbose=False, **options)


def activation(build: Builder, kind: str, x: str) -> str:
    """Each activation in one of the spellings that exporters use."""
    half, one, three, six = (build.constant(v) for v in (0.5, 1.0, 3.0, 6.0))
    if kind == "clip":
        return build.node("Clip", x, build.constant(0.0), six)
    if kind == "relu of clip":
        return build.node("Clip", x, build.constant(0.0))
    if kind == "max":
        return build.node("Max", x, build.constant(0.0))
    if kind == "hardsigmoid":
        return build.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    if kind == "hardsigmoid by hand":
        return build.node("Div", build.node("Clip", build.node("Add", x, three), build.constant(0.0), six), six)
    if kind == "hardswish by hand":
        gate = build.node("Clip", build.node("Add", three, x), build.constant(0.0), six)
        return build.node("Div", build.node("Mul", x, gate), six)
    if kind == "hardswish by hardsigmoid":
        return build.node("Mul", build.node("HardSigmoid", x, alpha=1 / 6, beta=0.5), x)
    if kind == "silu":
        return build.node("Mul", x, build.node("Sigmoid", x))
    if kind == "silu by exp":
        return build.node("Div", x, build.node("Add", one, build.node("Exp", build.node("Neg", x))))
    if kind.startswith("gelu by erf"):
        root = build.constant(np.sqrt(2.0))
        erf = build.node("Erf", build.node("Div", x, root))
        if kind.endswith("half first"):
            return build.node("Mul", build.node("Mul", half, x), build.node("Add", one, erf))
        return build.node("Mul", build.node("Mul", x, build.node("Add", erf, one)), half)
    if kind == "gelu by tanh":
        cube = build.node("Mul", build.node("Pow", x, three), build.constant(0.044715))
        inner = build.node("Mul", build.constant(np.sqrt(2 / np.pi)), build.node("Add", x, cube))
        return build.node("Mul", build.node("Mul", half, x), build.node("Add", one, build.node("Tanh", inner)))
    return build.node(kind, x)


SPELLINGS = {
    "Relu": "relu",
    "relu of clip": "relu",
    "max": "relu",
    "clip": "relu6",
    "Sigmoid": "sigmoid",
    "hardsigmoid": "hardsigmoid",
    "hardsigmoid by hand": "hardsigmoid",
    "hardswish by hand": "hardswish",
    "hardswish by hardsigmoid": "hardswish",
    "silu": "silu",
    "silu by exp": "silu",
    "gelu by erf": "gelu",
    "gelu by erf half first": "gelu",
    "gelu by tanh": "gelu_tanh",
}


def batch_norm(build: Builder, source: str, channels: int) -> str:
    uniform = build.random.uniform
    values = [uniform(-1.5, 1.5, channels), uniform(-1, 1, channels), uniform(-1, 1, channels)]
    parameters = [build.constant(value) for value in (*values, uniform(0.5, 2, channels))]
    return build.node("BatchNormalization", source, *parameters, epsilon=1e-3)
