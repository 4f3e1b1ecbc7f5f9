"""ONNX operators that multiply: linear layers, the products of attention, and means."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto

from compile.onnx_ops.state import Reader, Translation, attribute, refusal

aten = torch.ops.aten


def _gemm(state: Translation, node: NodeProto) -> None:
    weight, bias = state.weight(node, 1, "weight"), state.weight(node, 2, "bias")
    assert weight is not None
    if attribute(node, "transA", 0):
        raise refusal(node, "transposes its first operand; st3 has layers whose input is (B, K)")
    weight_NK = weight if attribute(node, "transB", 0) else weight.T
    weight_NK = np.float32(attribute(node, "alpha", 1.0)) * weight_NK
    shift = None
    if bias is not None:
        shift = np.zeros(len(weight_NK), np.float32) + np.float32(attribute(node, "beta", 1.0)) * bias.reshape(-1)
    _put_linear(state, node, weight_NK, shift)


def _matmul(state: Translation, node: NodeProto) -> None:
    if node.input[0] in state.constants:
        raise refusal(node, "has a constant on the left; st3 has linear layers, whose weight is on the right")
    if node.input[1] not in state.constants:
        state.put(node, aten.matmul.default, state.value(node.input[0]), state.value(node.input[1]))
        return
    weight_KN = state.weight(node, 1, "second operand")
    assert weight_KN is not None
    while weight_KN.ndim > 2 and len(weight_KN) == 1:
        weight_KN = weight_KN[0]
    if weight_KN.ndim != 2:
        raise refusal(node, f"has a weight of shape {weight_KN.shape}; st3 has linear layers (K, N)")
    _put_linear(state, node, weight_KN.T, None)


def _put_linear(
    state: Translation, node: NodeProto, weight_NK: NDArray[np.float32], bias: NDArray[np.float32] | None
) -> None:
    source, layer = state.value(node.input[0]), state.layer_name(node)
    held = None if bias is None else state.held(bias, f"{layer}.bias")
    state.put(node, aten.linear.default, source, state.held(weight_NK, layer), held)


def _einsum(state: Translation, node: NodeProto) -> None:
    equation = attribute(node, "equation", "")
    state.put(node, aten.einsum.default, equation, [state.operand(name) for name in node.input])


def _reduce_mean(state: Translation, node: NodeProto) -> None:
    axes = reduced_axes(state, node)
    if axes:
        _put_mean(state, node, axes, bool(attribute(node, "keepdims", 1)))
    else:
        state.values[node.output[0]] = state.value(node.input[0])


def reduced_axes(state: Translation, node: NodeProto) -> list[int]:
    """Which axes a reduction is over, an attribute or (since opset 18) an input; all where none are named."""
    axes = state.constant(node, 1, "axes") if len(node.input) > 1 else attribute(node, "axes", None)
    rank = len(state.size(node.input[0]))
    if axes is None or len(axes) == 0:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in axes)


def _global_mean(state: Translation, node: NodeProto) -> None:
    _put_mean(state, node, list(range(2, len(state.size(node.input[0])))), True)


def _put_mean(state: Translation, node: NodeProto, axes: list[int], keep: bool) -> None:
    state.put(node, aten.mean.dim, state.value(node.input[0]), axes, keep)


READERS: dict[str, Reader] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "ReduceMean": _reduce_mean,
    "GlobalAveragePool": _global_mean,
}
