"""Runs the fp16 model on the CPU: how far fp16 is from the network as it was given.

ONNX Runtime has few fp16 kernels for a CPU, runs the others in float32 and leaves out the rounding between two of them.
So the model is run as its float32 twin, in which each result is rounded to fp16 and back by nodes of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from compile.network import Network
from runtime.errors import UserError

_SEED = 20221201
_LEAST = 2.0**-11
"""Half a unit of fp16's last place at the largest answer: no engine can promise less."""


def rehearse(model: ModelProto, network: Network) -> tuple[float, ...]:
    """``max|y - reference| / max|reference|`` of each output of the model and the network on random pictures.

    Raises:
        UserError: ONNX Runtime refuses the model, or an activation leaves fp16's range.
    """
    inputs = np.random.default_rng(_SEED).standard_normal(network.input_shape).astype(np.float32)
    found = zip(_run(float_twin(model), network, inputs), network.answer(inputs), strict=True)
    return tuple(_deviation(result.reshape(expected.shape), expected) for result, expected in found)


def _deviation(result: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    if not np.isfinite(result).all():
        raise UserError(
            "the network leaves the range of fp16 (its answer is infinite or not a number), so TensorRT cannot run it "
            "in float16; use a backend that computes in float32"
        )
    error = float(np.abs(result - expected).max()) / (float(np.abs(expected).max()) or 1.0)
    return max(error, _LEAST)


def float_twin(model: ModelProto) -> ModelProto:
    """The model in float32, each value that was fp16 rounded to it where it is made."""
    graph = shape_inference.infer_shapes(model).graph
    half = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    twin = ModelProto()
    twin.CopyFrom(model)
    del twin.graph.value_info[:]
    for tensor in twin.graph.initializer:
        _widen(tensor)
    _round_nodes(twin.graph, half)
    return twin


def _round_nodes(graph: GraphProto, half: set[str]) -> None:
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        _widen_attributes(node)
        rounded = [name for name in node.output if name in half]
        node.output[:] = [f"{name}/exact" if name in half else name for name in node.output]
        graph.node.append(node)
        for name in rounded:
            graph.node.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
            graph.node.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))


def _widen_attributes(node: NodeProto) -> None:
    """Constants and casts inside a node."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen(attribute.t)
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _run(model: ModelProto, network: Network, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # an optimiser would take a cast there and back for nothing
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(list(network.output_names), {network.input_name: inputs})
    except Exception as error:  # ONNX Runtime raises a class of its own for each status code
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"ONNX Runtime {onnxruntime.__version__}, which rehearses the fp16 model, cannot run it: {first}; "
            f"use another backend"
        ) from error
    return [np.asarray(result, np.float32) for result in results]
