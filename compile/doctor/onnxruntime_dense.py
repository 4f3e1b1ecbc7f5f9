"""ONNX Runtime on the same layer with dense weights: the engine that a user would take instead."""

from __future__ import annotations

import time
from typing import Any, final

import numpy as np

from compile.doctor.layer import CHANNELS, KERNELS, SIDE, Layer, chain
from compile.graph import Conv, Graph

ENGINE = "onnxruntime"
# so short that the weights of the long one stay in a second-level cache of 2 MB, as ours do
_SHORT, _LONG = 2, 8
_OPSET = 17
_IR_VERSION = 8


@final
class Yardstick:
    """One layer in ONNX Runtime, on one thread.

    It reorders tensors where a network begins and ends, which no layer pays for; so the time of a layer is the
    difference between a long and a short chain of it.
    """

    def __init__(self, layer: Layer, repeats: int) -> None:
        self.layer = layer
        self._repeats = repeats
        self._sessions = [_session(chain([layer] * count)) for count in (_SHORT, _LONG)]
        self._input = np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)

    def us(self) -> float:
        """Microseconds of the layer, from the shortest of a few runs of each chain."""
        short, long = (self._shortest(session) for session in self._sessions)
        return 1e6 * (long - short) / (_LONG - _SHORT)

    def _shortest(self, session: Any) -> float:
        seconds = []
        for _ in range(1 + self._repeats):
            start = time.perf_counter()
            session.run(None, {"input": self._input})
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])


def yardsticks(repeats: int) -> tuple[tuple[Yardstick, ...], tuple[str, ...]]:
    """One per layer; where ONNX Runtime is missing none, and a note that says how to install it."""
    try:
        return tuple(Yardstick(Layer(kernel), repeats) for kernel in KERNELS), ()
    except ImportError as error:
        return (), (f"not compared with ONNX Runtime: {error}; pip install onnx onnxruntime",)


def _session(graph: Graph) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(_model(graph), options, providers=["CPUExecutionProvider"])


def _model(graph: Graph) -> bytes:
    """A chain of convolutions with ReLU as an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], []
    for node in graph.nodes:
        assert isinstance(node, Conv)
        sums = f"{node.output}.sums"
        weights += [numpy_helper.from_array(node.weight, f"{node.output}.weight")]
        weights += [numpy_helper.from_array(node.bias, f"{node.output}.bias")]
        inputs = [node.input, f"{node.output}.weight", f"{node.output}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [sums], pads=node.padding))
        nodes.append(helper.make_node("Relu", [sums], [node.output]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *graph.shapes[name]])
        for name in (graph.input, graph.output)
    ]
    made = helper.make_graph(nodes, "chain", [ends[0]], [ends[1]], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    content: bytes = model.SerializeToString()
    return content
