"""ONNX operators that mix channels or pixels without a window: linear layers, means, concatenation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from compile.graph import Concat, Conv, Mean
from compile.onnx_ops.state import Import, Index, Reader, View, attribute, channels_of, refusal, whole


def _gemm(state: Import, node: NodeProto) -> None:
    weight, bias = state.weight(node, 1, "weight"), state.weight(node, 2, "bias")
    assert weight is not None
    if attribute(node, "transA", 0):
        raise refusal(node, "transposes its first operand; st3 has layers whose input is (B, K)")
    weight_NK = weight if attribute(node, "transB", 0) else weight.T
    weight_NK = np.float32(attribute(node, "alpha", 1.0)) * weight_NK
    outputs = len(weight_NK)
    shift = np.zeros(outputs, np.float32)
    if bias is not None:
        shift = shift + np.float32(attribute(node, "beta", 1.0)) * bias.reshape(-1)
    view = state.view(node.input[0])
    if view.index.ndim != 1:
        raise refusal(node, f"multiplies a value of {view.index.ndim + 1} dimensions; st3 has Gemm of (B, K)")
    _put_linear(state, node, view, weight_NK, shift)


def _matmul(state: Import, node: NodeProto) -> None:
    if node.input[0] in state.constants:
        raise refusal(node, "has a constant on the left; st3 has linear layers, whose weight is on the right")
    weight_KN = state.weight(node, 1, "second operand")
    assert weight_KN is not None
    if weight_KN.ndim != 2:
        raise refusal(node, f"has a weight of shape {weight_KN.shape}; st3 has linear layers (K, N)")
    view = state.view(node.input[0])
    _put_linear(state, node, view, weight_KN.T, np.zeros(weight_KN.shape[1], np.float32))


def _put_linear(
    state: Import, node: NodeProto, view: View, weight_NK: NDArray[np.float32], bias: NDArray[np.float32]
) -> None:
    """A linear layer over the channels of each pixel (a 1x1 kernel), or over a flattened map (its own size)."""
    channels, height, width = state.shapes[view.value]
    outputs, inputs = weight_NK.shape
    if not view.index.ndim or view.index.shape[-1] != inputs:
        raise refusal(node, f"has a weight for {inputs} inputs and reads a value of shape {view.index.shape}")
    pixels = state.pixels(view, -1)
    if pixels is not None:
        weight, shape = weight_NK.reshape(outputs, channels, 1, 1), (outputs, height, width)
        index = np.moveaxis(channels_of(pixels, outputs), 0, -1)
    elif view.index.size == inputs == len(np.unique(view.index)):
        # columns in the order of the map: a flattened map may have had its axes moved
        flat = np.zeros((outputs, channels * height * width), np.float32)
        flat[:, view.index.reshape(-1)] = weight_NK
        weight, shape = flat.reshape(outputs, channels, height, width), (outputs, 1, 1)
        index = whole((*view.index.shape[:-1], outputs))
    else:
        raise refusal(node, "is a linear layer over part of a map, which st3 does not have; flatten the map first")
    layer = state.layer_name(node)
    value = state.put(
        node.output[0],
        lambda name: Conv(name, view.value, layer, "linear", np.ascontiguousarray(weight), bias),
        shape,
    )
    state.values[node.output[0]] = View(value, index)


def _reduce_mean(state: Import, node: NodeProto) -> None:
    view = state.view(node.input[0])
    axes = attribute(node, "axes", None) if state.opset < 18 else state.constant(node, 1, "axes")
    rank = view.index.ndim + 1
    if axes is None or len(axes) == 0:
        chosen = set() if attribute(node, "noop_with_empty_axes", 0) else set(range(rank))
    else:
        chosen = {int(axis) % rank for axis in axes}
    _put_mean(state, node, view, chosen, bool(attribute(node, "keepdims", 1)))


def _global_mean(state: Import, node: NodeProto) -> None:
    view = state.view(node.input[0])
    _put_mean(state, node, view, set(range(2, view.index.ndim + 1)), True)


def _put_mean(state: Import, node: NodeProto, view: View, axes: set[int], keep: bool) -> None:
    """The mean over all pixels, whatever axes they lie along; ``axes`` counts the batch as 0."""
    channels, height, width = state.shapes[view.value]
    kept = [axis - 1 for axis in range(1, view.index.ndim + 1) if axis not in axes]
    gone = [axis - 1 for axis in sorted(axes) if axis]
    left = int(np.prod([view.index.shape[axis] for axis in kept]))
    rows = np.sort(view.index.transpose(kept + gone).reshape(left, -1), axis=1)
    if 0 in axes or not np.array_equal(rows, whole((channels, height * width))):
        raise refusal(
            node, f"averages over dimensions {sorted(axes)}; the native backend has the mean over all pixels (2, 3)"
        )
    value = state.put(node.output[0], lambda name: Mean(name, view.value), (channels, 1, 1))
    shape = [length for axis, length in enumerate(view.index.shape) if axis in kept]
    if keep:
        shape = [length if axis in kept else 1 for axis, length in enumerate(view.index.shape)]
    state.values[node.output[0]] = View(value, whole(tuple(shape)))


def _concat(state: Import, node: NodeProto) -> None:
    constant = [name for name in node.input if name in state.constants]
    if constant:
        raise refusal(node, f"joins a map and the constant {constant[0]!r}, which the native backend does not have")
    views = [state.view(name) for name in node.input]
    if len(views) == 1:
        state.values[node.output[0]] = views[0]
        return
    rank = views[0].index.ndim + 1
    axis = int(attribute(node, "axis", 1)) % rank - 1
    found = [state.pixels(view, axis) if axis >= 0 and view.index.ndim == rank - 1 else None for view in views]
    size = state.shapes[views[0].value][1:]
    pixels = _agreed(found)
    if pixels is None or any(state.shapes[view.value][1:] != size for view in views):
        raise refusal(node, "joins values along another axis than the channels, which the native backend does not have")
    channels = sum(state.shapes[view.value][0] for view in views)
    parts = tuple(view.value for view in views)
    value = state.put(node.output[0], lambda name: Concat(name, parts), (channels, *size))
    state.values[node.output[0]] = View(value, np.moveaxis(channels_of(pixels, channels), 0, axis))


def _agreed(found: list[Index | None]) -> Index | None:
    """The places of the pixels, if all values have them in the same."""
    first = found[0]
    if first is None or any(other is None or not np.array_equal(other, first) for other in found):
        return None
    return first


READERS: dict[str, Reader] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "ReduceMean": _reduce_mean,
    "GlobalAveragePool": _global_mean,
    "Concat": _concat,
}
