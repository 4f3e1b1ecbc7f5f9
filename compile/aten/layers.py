"""Reads the operators that have weights: convolution, linear, batch norm, layer norm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import fx

from compile.aten.nodes import arguments, layer_name, map_shape, pair
from compile.aten.state import Import, per_channel
from compile.aten.views import View, axes, axis
from compile.graph import Conv, LayerNorm
from runtime.errors import UserError


def conv2d(state: Import, node: fx.Node) -> None:
    """Any kernel, stride, padding, dilation and groups."""
    source, weight_node, bias_node, stride, padding, dilation, groups = arguments(node)
    weight = state.array(weight_node)
    assert weight is not None
    if isinstance(padding, str):
        sides = _named_padding(padding, weight.shape[2:], pair(dilation))
    else:
        down, across = pair(padding)
        sides = (down, across, down, across)
    name, shape = state.map(node, source), map_shape(node)
    state.put(
        node,
        lambda output: Conv(
            output=output,
            input=name,
            layer=layer_name(weight_node),
            op="conv2d",
            weight=weight,
            bias=_or(state.array(bias_node), len(weight), 0.0),
            stride=pair(stride),
            padding=sides,
            dilation=pair(dilation),
            groups=int(groups),
        ),
        shape,
    )


def linear(state: Import, node: fx.Node) -> None:
    """A matrix over the last dimension: all of a flattened map, or the channels of each pixel."""
    source, weight_node, bias_node = arguments(node)
    matrix = state.array(weight_node)
    assert matrix is not None
    view = state.view(source)
    weight = _kernel(state, node, view, matrix)
    _, height, width = state.shapes[view.name]
    outputs = len(weight)
    shape = (outputs, height - weight.shape[2] + 1, width - weight.shape[3] + 1)
    state.put(
        node,
        lambda output: Conv(
            output=output,
            input=view.name,
            layer=layer_name(weight_node),
            op="linear",
            weight=weight,
            bias=_or(state.array(bias_node), outputs, 0.0),
        ),
        shape,
        (*view.dims[:-1], axis(shape, 1)),
    )


def _kernel(state: Import, node: fx.Node, view: View, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matrix ``(N, K)`` as the kernel of a convolution over the value: 1x1, or as large as the map."""
    shape = state.shapes[view.name]
    last = view.dims[-1]
    if len(view.dims) > 1 and last == axis(shape, 1):
        return np.ascontiguousarray(matrix.reshape(len(matrix), shape[0], 1, 1))
    if len(view.dims) > 1 and axes(view.dims[:-1]) == (0,):
        spread = matrix.reshape(len(matrix), *(shape[number - 1] for number in last))
        ordered = spread.transpose(0, *(1 + np.argsort(last)))
        return np.ascontiguousarray(ordered.reshape(len(matrix), *shape))
    raise UserError(
        f"node {node.name!r} is a linear layer over part of a map {shape}, neither its channels nor all of it; "
        f"flatten the map first"
    )


def batch_norm(state: Import, node: fx.Node) -> None:
    """One that was not folded into a convolution: a scale and a shift per channel."""
    source, scale_node, shift_node, mean_node, variance_node, _, _, epsilon, _ = arguments(node)
    mean, variance = state.array(mean_node), state.array(variance_node)
    assert mean is not None
    assert variance is not None
    factor = _or(state.array(scale_node), len(mean), 1.0) / np.sqrt(variance.astype(np.float64) + float(epsilon))
    bias = _or(state.array(shift_node), len(mean), 0.0) - mean * factor
    view = state.view(source)
    shape = state.shapes[view.name]
    if len(view.dims) < 2 or view.dims[1] != axis(shape, 1):
        raise UserError(f"node {node.name!r} normalises a dimension that does not hold a map's channels")
    make = per_channel(node.name, view.name, factor, bias, layer_name(mean_node), "affine")
    state.put(node, lambda _: make, shape, view.dims)


def layer_norm(state: Import, node: fx.Node) -> None:
    """Over the channels of each pixel, which a permuted map has in its last dimension."""
    source, normalised, weight_node, bias_node, epsilon, _ = arguments(node)
    view = state.view(source)
    channels, height, width = state.shapes[view.name]
    if len(normalised) != 1 or view.dims[-1] != axis((channels, height, width), 1) or len(view.dims) < 2:
        raise UserError(
            f"node {node.name!r} normalises over {list(normalised)}; the native backend normalises over the channels "
            f"of each pixel, which must be the last dimension"
        )
    weight, bias = _or(state.array(weight_node), channels, 1.0), _or(state.array(bias_node), channels, 0.0)
    state.put(
        node,
        lambda name: LayerNorm(name, view.name, weight, bias, float(epsilon)),
        (channels, height, width),
        view.dims,
    )


def _or(array: NDArray[np.float32] | None, length: int, value: float) -> NDArray[np.float32]:
    return np.full(length, value, np.float32) if array is None else array


def _named_padding(name: str, kernel: Sequence[int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if name == "valid":
        return 0, 0, 0, 0
    total = [step * (length - 1) for step, length in zip(dilation, kernel, strict=True)]
    top, left = total[0] // 2, total[1] // 2
    return top, left, total[0] - top, total[1] - left
