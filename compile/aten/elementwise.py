"""Reads the operators that work position by position: activations, sums, products, constants."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import fx

from compile.aten.state import Import, Reader, arguments, per_channel
from compile.aten.views import Dims, View, axis
from compile.graph import Activation, Elementwise
from runtime.errors import UserError

_INFINITY = float("inf")


def activation(kind: Activation) -> Reader:
    """An operator that is one activation."""

    def read(state: Import, node: fx.Node) -> None:
        _put_activation(state, node, kind)

    return read


def gelu(state: Import, node: fx.Node) -> None:
    """Both of torch's kinds."""
    _put_activation(state, node, "gelu_tanh" if arguments(node)[1] == "tanh" else "gelu")


def clamp(state: Import, node: fx.Node) -> None:
    """``clamp``, ``clamp_min``, ``hardtanh``: those between 0 and 6, or above 0."""
    low, high = (*arguments(node)[1:], None)[:2]
    kind: Activation
    if (low, high) == (0, 6):
        kind = "relu6"
    elif low == 0 and high in (None, _INFINITY):
        kind = "relu"
    else:
        raise UserError(f"node {node.name!r} clamps to {low}, {high}; the native backend has (0, infinity) and (0, 6)")
    _put_activation(state, node, kind)


def _put_activation(state: Import, node: fx.Node, kind: Activation) -> None:
    view = state.view(node.args[0])
    make = Elementwise(node.name, view.name, None, activation=kind)
    state.put(node, lambda _: make, state.shapes[view.name], view.dims)


def add(state: Import, node: fx.Node) -> None:
    """Two maps, or a map and a constant; the second one times ``alpha``."""
    left, right, alpha = arguments(node)
    _sum(state, node, left, right, float(alpha))


def subtract(state: Import, node: fx.Node) -> None:
    """As an addition of the negative."""
    left, right, alpha = arguments(node)
    _sum(state, node, left, right, -float(alpha))


def subtract_from(state: Import, node: fx.Node) -> None:
    """A constant less a map."""
    right, left, alpha = arguments(node)
    _sum(state, node, left, right, -float(alpha))


def _sum(state: Import, node: fx.Node, left: object, right: object, factor: float) -> None:
    if not _is_value(state, right):
        view = state.view(left)
        shift = factor * _constant(state, node, view, right)
        _scale(state, node, view, np.ones_like(shift), shift)
    elif not _is_value(state, left):
        view = state.view(right)
        shift = _constant(state, node, view, left)
        _scale(state, node, view, np.full_like(shift, factor), shift)
    elif factor == 1:
        _combine(state, node, state.view(left), state.view(right), "add")
    else:
        view = state.view(right)
        name, shape = f"{node.name}_term", state.shapes[view.name]
        ones = np.ones(shape[0])
        state.append(per_channel(name, view.name, factor * ones, 0 * ones, node.name, "affine"), shape)
        _combine(state, node, state.view(left), View(name, view.dims, view.memory), "add")


def multiply(state: Import, node: fx.Node) -> None:
    """Two maps, a map and one factor per channel and picture, or a map and a constant."""
    left, right = arguments(node)[:2]
    if not _is_value(state, left):
        left, right = right, left
    view = state.view(left)
    if _is_value(state, right):
        _combine(state, node, view, state.view(right), "multiply")
    else:
        scale = _constant(state, node, view, right)
        _scale(state, node, view, scale, np.zeros_like(scale))


def divide(state: Import, node: fx.Node) -> None:
    """A map by a constant."""
    left, right = arguments(node)[:2]
    view = state.view(left)
    if _is_value(state, right):
        raise UserError(f"node {node.name!r} divides by a value of the network, which the native backend does not have")
    scale = 1 / _constant(state, node, view, right)
    _scale(state, node, view, scale, np.zeros_like(scale))


def _is_value(state: Import, operand: object) -> bool:
    return isinstance(operand, fx.Node) and operand in state.views


def _constant(state: Import, node: fx.Node, view: View, operand: object) -> NDArray[np.float64]:
    """A number or a weight as one number per channel ``(C,)`` of the value that ``view`` shows."""
    shape = state.shapes[view.name]
    if isinstance(operand, (int, float)):
        return np.full(shape[0], float(operand))
    array = state.array(operand)
    assert array is not None
    dims: Dims = view.dims[len(view.dims) - array.ndim :]
    per_channel_only = array.ndim <= len(view.dims) and all(
        length == 1 or (dim == axis(shape, 1) and length == shape[0])
        for length, dim in zip(array.shape, dims, strict=True)
    )
    if not per_channel_only:
        raise UserError(
            f"node {node.name!r} combines a map {shape} with a constant {tuple(array.shape)}; "
            f"the native backend has constants that are one number or one per channel"
        )
    return np.broadcast_to(array.reshape(-1), shape[0]).astype(np.float64)


def _scale(state: Import, node: fx.Node, view: View, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
    make = per_channel(node.name, view.name, scale, shift, node.name, "affine")
    state.put(node, lambda _: make, state.shapes[view.name], view.dims)


def _combine(state: Import, node: fx.Node, left: View, right: View, op: Literal["add", "multiply"]) -> None:
    """Maps of one shape, or one of them ``(C, 1, 1)``, which goes to the right."""
    if state.shapes[left.name][1:] == (1, 1):
        left, right = right, left
    shape, other = state.shapes[left.name], state.shapes[right.name]
    same = shape == other and left.dims == right.dims
    per_channel_only = other == (shape[0], 1, 1) and _aligned(left.dims, right.dims)
    if not same and not per_channel_only:
        raise UserError(
            f"node {node.name!r} combines maps {shape} and {other}; the native backend takes maps of one shape and "
            f"order, or one of them with one value per channel (C, 1, 1)"
        )
    make = Elementwise(node.name, left.name, right.name, op)
    state.put(node, lambda _: make, shape, left.dims)


def _aligned(dims: Dims, other: Dims) -> bool:
    """Whether each dimension meets the same one or one of length 1."""
    return len(dims) == len(other) and all(b in (a, ()) for a, b in zip(dims, other, strict=True))
