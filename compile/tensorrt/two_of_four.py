"""Which weights of an ONNX model are 2:4 along the input channels, as a sparse tensor core needs them."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from st3.patterns import TWO_OF_FOUR, obeys, reject

_OPERATORS = ("Conv", "Gemm", "MatMul")


class WeightCheck(msgspec.Struct, frozen=True):
    """One weight: ``reason`` says why it is not 2:4 and is empty where it is."""

    node: str
    op: str
    shape: tuple[int, ...]
    density: float
    reason: str

    @property
    def fits(self) -> bool:
        """Whether a sparse tensor core can take it."""
        return not self.reason


def check_weights(model: ModelProto) -> tuple[WeightCheck, ...]:
    """Every Conv, Gemm and MatMul whose weight is stored in the model, in its order.

    TensorRT asks of each output channel and filter position that of every 4 consecutive input channels at most 2 be
    non-zero, and that their number be a multiple of 4 (developer guide, "Structured Sparsity").
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    checks = []
    for node in model.graph.node:
        found = _weight(node, stored, made) if node.op_type in _OPERATORS else None
        if found is not None:
            checks.append(
                WeightCheck(
                    node=node.name,
                    op=node.op_type,
                    shape=found.shape,
                    density=float(np.count_nonzero(found)) / max(1, found.size),
                    reason=why_not(found),
                )
            )
    return tuple(checks)


def why_not(weight_NKRS: NDArray[np.generic]) -> str:
    """Why a weight ``(N, K, ...)`` is not 2:4; empty if it is."""
    refusal = reject(weight_NKRS.shape, TWO_OF_FOUR)
    if refusal:
        return refusal
    if not obeys(torch.from_numpy(np.ascontiguousarray(weight_NKRS != 0)), TWO_OF_FOUR):
        full = np.count_nonzero(weight_NKRS) == weight_NKRS.size
        return "no zeros" if full else "not 2:4: some group of 4 input channels keeps more than 2 weights"
    return ""


def _weight(node: NodeProto, stored: dict[str, TensorProto], made: dict[str, NodeProto]) -> NDArray[np.generic] | None:
    """The weight with the outputs first; ``None`` where it is computed at run time."""
    if len(node.input) < 2:
        return None
    name, turned = node.input[1], node.op_type != "Conv"  # ONNX has the weight of a product as (K, N)
    if name in made and made[name].op_type == "Transpose":
        name, turned = made[name].input[0], not turned
    if node.op_type == "Gemm" and any(item.name == "transB" and item.i for item in node.attribute):
        turned = not turned
    if name not in stored:
        return None
    weight: NDArray[np.generic] = numpy_helper.to_array(stored[name])
    if weight.ndim < 2:
        return None
    return weight.T if turned and weight.ndim == 2 else weight
