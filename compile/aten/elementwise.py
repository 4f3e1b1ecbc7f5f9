"""Reads the operators that work position by position: activations, sums, products, constants."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from compile.aten import attention
from compile.aten.nodes import arguments, size_of
from compile.aten.state import Import, Reader, per_channel
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
    if node.args[0] in state.lengths:
        attention.at_least(state, node, low, high)
        return
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
    if isinstance(left, fx.Node) and left in state.scores:
        attention.add_to_scores(state, node, left, right, factor)
    elif isinstance(right, fx.Node) and right in state.scores and factor == 1:
        attention.add_to_scores(state, node, right, left, 1.0)
    elif not _is_value(state, right):
        if _shift(state, node, left, right, factor):
            return
        view = state.view(left)
        shift = factor * _constant(state, node, view, right)
        _scale(state, node, view, np.ones_like(shift), shift)
    elif not _is_value(state, left):
        if factor == 1 and _shift(state, node, right, left, 1.0):
            return
        view = state.view(right)
        shift = _constant(state, node, view, left)
        _scale(state, node, view, np.full_like(shift, factor), shift)
    elif factor == 1:
        _combine(state, node, left, right, "add")
    else:
        view = state.view(right)
        name, shape = f"{node.name}_term", state.shapes[view.name]
        ones = np.ones(shape[0])
        state.append(per_channel(name, view.name, factor * ones, 0 * ones, node.name, "affine"), shape)
        _put_pair(state, node, state.view(left), View(name, view.dims, view.memory), "add")


def multiply(state: Import, node: fx.Node) -> None:
    """Two maps, a map and one factor per channel and picture, or a map and a constant."""
    left, right = arguments(node)[:2]
    if not _is_value(state, left):
        left, right = right, left
    for one, other in ((left, right), (right, left)):
        if isinstance(one, fx.Node) and one in state.scores:
            attention.scale_scores(state, node, one, other)
            return
    if isinstance(right, (int, float)) and _factor(state, node, left, float(right)):
        return
    view = state.view(left)
    if _is_value(state, right):
        _combine(state, node, left, right, "multiply")
    else:
        scale = _constant(state, node, view, right)
        _scale(state, node, view, scale, np.zeros_like(scale))


def divide(state: Import, node: fx.Node) -> None:
    """A map by a constant."""
    left, right = arguments(node)[:2]
    if isinstance(right, fx.Node) and right in state.lengths:
        attention.divide_by_length(state, node, left, right)
        return
    if isinstance(right, (int, float)):
        if isinstance(left, fx.Node) and left in state.scores:
            attention.scale_scores(state, node, left, 1 / right)
            return
        if _factor(state, node, left, 1 / right):
            return
    view = state.view(left)
    if _is_value(state, right):
        raise UserError(f"node {node.name!r} divides by a value of the network, which the native backend does not have")
    scale = 1 / _constant(state, node, view, right)
    _scale(state, node, view, scale, np.zeros_like(scale))


def _is_value(state: Import, operand: object) -> bool:
    return state.computed(operand)


def _factor(state: Import, node: fx.Node, source: object, factor: float) -> bool:
    """Multiply elements that nothing computed with so far, which attention does for nothing; whether these are some."""
    if not isinstance(source, fx.Node) or source not in state.elements or source in state.views:
        return False
    held = state.elements[source]
    shift = None if held.shift is None else held.shift * factor
    state.elements[node] = msgspec.structs.replace(
        held, factor=held.factor * factor, shift=shift, memory=state.new_memory()
    )
    return True


def _shift(state: Import, node: fx.Node, source: object, term: object, factor: float) -> bool:
    """Add a constant to elements that are moved anyway, or one that differs between pixels; whether it is that."""
    if not isinstance(source, fx.Node) or not isinstance(term, fx.Node) or size_of(node) != size_of(source):
        return False
    if not state.computed(source) or term not in state.constants:
        return False
    waiting = source in state.elements and source not in state.views
    if not waiting and _number_per_channel(state, state.view(source), term) is not None:
        return False
    held = state.elements_of(source)
    if held.lines is not None:
        return False
    added = (state.constants[term].to(torch.float32) * factor).expand(held.ids.shape)
    shift = added if held.shift is None else held.shift + added
    state.elements[node] = msgspec.structs.replace(held, shift=shift, memory=state.new_memory())
    return True


def _constant(state: Import, node: fx.Node, view: View, operand: object) -> NDArray[np.float64]:
    """A number or a weight as one number per channel ``(C,)`` of the value that ``view`` shows."""
    shape = state.shapes[view.name]
    if isinstance(operand, (int, float)):
        return np.full(shape[0], float(operand))
    found = _number_per_channel(state, view, operand)
    if found is None:
        array = state.array(operand)
        raise UserError(
            f"node {node.name!r} combines a map {shape} with a constant {() if array is None else tuple(array.shape)}; "
            f"the native backend multiplies by constants that are one number or one per channel"
        )
    return found


def _number_per_channel(state: Import, view: View, operand: object) -> NDArray[np.float64] | None:
    """A weight as ``(C,)``, if it has one number for all pixels of each channel."""
    shape = state.shapes[view.name]
    array = state.array(operand)
    assert array is not None
    dims: Dims = view.dims[len(view.dims) - array.ndim :]
    per_channel_only = array.ndim <= len(view.dims) and all(
        length == 1 or (dim == axis(shape, 1) and length == shape[0])
        for length, dim in zip(array.shape, dims, strict=True)
    )
    return np.broadcast_to(array.reshape(-1), shape[0]).astype(np.float64) if per_channel_only else None


def _scale(state: Import, node: fx.Node, view: View, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
    make = per_channel(node.name, view.name, scale, shift, node.name, "affine")
    state.put(node, lambda _: make, state.shapes[view.name], view.dims)


def _combine(state: Import, node: fx.Node, left: object, right: object, op: Literal["add", "multiply"]) -> None:
    """Maps of one shape; where one has its pixels elsewhere, they are moved first."""
    one, other = state.view(left), state.view(right)
    alike = state.shapes[one.name] == state.shapes[other.name] and one.dims == other.dims
    if not alike and isinstance(left, fx.Node) and isinstance(right, fx.Node) and size_of(left) == size_of(right):
        name = state.like(right, one)
        if name is not None:
            other = View(name, one.dims, other.memory)
    _put_pair(state, node, one, other, op)


def _put_pair(state: Import, node: fx.Node, left: View, right: View, op: Literal["add", "multiply"]) -> None:
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
