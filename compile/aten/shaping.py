"""Reads what moves no data, other shapes and orders of the same numbers, and concatenation."""

from __future__ import annotations

import torch
from torch import fx

from compile.aten import channels
from compile.aten.moving import passing
from compile.aten.nodes import arguments, size_of
from compile.aten.state import Import, in_order
from compile.aten.views import Dims, axis, reshape
from compile.graph import Concat
from runtime.errors import UserError


def reshaped(state: Import, node: fx.Node) -> None:
    """Flatten, view, reshape, squeeze, unsqueeze: what the result's size says."""
    if channels.group(state, node):
        return
    view = state.view(node.args[0])
    batch, *size = size_of(node)
    old = size_of(node.args[0]) if isinstance(node.args[0], fx.Node) else []
    apart = old[0] == batch and view.dims[0] == (0,)
    dims = reshape(view.dims, state.shapes[view.name], size) if apart else None
    if dims is None:
        raise UserError(
            f"node {node.name!r} reshapes {old} to {[batch, *size]}; the native backend takes reshapes that keep the "
            f"batch and join whole dimensions, like flatten"
        )
    # torch copies where the numbers do not lie in order already
    state.show(node, view.name, dims, view.memory if in_order(view.dims) else None)


def permute(state: Import, node: fx.Node) -> None:
    """Another order of the dimensions; the batch stays first."""
    assert isinstance(node.args[0], fx.Node)
    count = len(size_of(node.args[0]))
    if node.target is torch.ops.aten.transpose.int:
        _, first, second = arguments(node)
        order = list(range(count))
        order[first], order[second] = order[second], order[first]
    else:
        order = [int(number) % count for number in arguments(node)[1]]
    if channels.swap(state, node, order):
        return
    view = state.view(node.args[0])
    if order[0] != 0:
        raise UserError(f"node {node.name!r} moves the batch away from dimension 0; the native backend cannot")
    state.show(node, view.name, tuple(view.dims[number] for number in order), view.memory)


def same(state: Import, node: fx.Node) -> None:
    """The tensor itself."""
    view = state.view(node.args[0])
    state.show(node, view.name, view.dims, view.memory)


def copied(state: Import, node: fx.Node) -> None:
    """A copy, or the tensor itself where torch's ``contiguous`` has nothing to do."""
    if channels.keep(state, node):
        return
    view = state.view(node.args[0])
    kept = node.target is torch.ops.aten.contiguous.default and in_order(view.dims)
    state.show(node, view.name, view.dims, view.memory if kept else None)


def dropout(state: Import, node: fx.Node) -> None:
    """Nothing, at inference."""
    if arguments(node)[2]:
        raise UserError(f"node {node.name!r} is an active dropout; export the model in eval mode")
    passing(same)(state, node)


def one_result(state: Import, node: fx.Node) -> None:
    """One of several parts of the channels; of any other operator the first result, which is its value."""
    if channels.part(state, node):
        return
    source, index = node.args
    if index != 0:
        raise UserError(f"node {node.name!r} takes result {index} of {source!r}; the native backend has the first only")
    same(state, node)


def concat(state: Import, node: fx.Node) -> None:
    """Along the channels."""
    tensors, dimension = arguments(node)
    views = [state.view(tensor) for tensor in tensors]
    shapes = [state.shapes[view.name] for view in views]
    number = int(dimension) % len(views[0].dims)
    rest = {(_without(view.dims, number), shape[1:]) for view, shape in zip(views, shapes, strict=True)}
    channels = all(
        view.dims[number] == axis(shape, 1) and (view.dims[number] or number == 1)
        for view, shape in zip(views, shapes, strict=True)
    )
    if not channels or len(rest) != 1:
        raise UserError(
            f"node {node.name!r} concatenates {[size_of(tensor) for tensor in tensors]} along dimension {dimension}; "
            f"the native backend concatenates maps of one size along their channels"
        )
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    dims = (*views[0].dims[:number], axis(shape, 1), *views[0].dims[number + 1 :])
    names = tuple(view.name for view in views)
    state.put(node, lambda output: Concat(output, names), shape, dims)


def _without(dims: Dims, number: int) -> Dims:
    return (*dims[:number], *dims[number + 1 :])
