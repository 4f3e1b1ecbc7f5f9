"""Reads what picks channels of a map and puts them in another order: chunk, split, slices, channel shuffles.

A choice of channels is a 1x1 convolution with one weight of 1 in each row (``op`` is ``select``), which a convolution
that reads it takes into its own weights, and which otherwise costs one load for each number that it copies.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import fx

from compile.aten.nodes import arguments, size_of
from compile.aten.state import Grouped, Import
from compile.aten.views import axis, map_dims
from compile.graph import Conv
from runtime.errors import UserError


def chunk(state: Import, node: fx.Node) -> None:
    """Equal parts of the channels, as many as asked for."""
    source, count, dimension = arguments(node)
    channels = _channels(state, node, source, dimension)
    _cut(state, node, source, [min(part, channels) for part in range(0, channels, -(-channels // int(count)))])


def split(state: Import, node: fx.Node) -> None:
    """Parts of the channels, all of one size or of the given ones."""
    source, sizes, dimension = arguments(node)
    channels = _channels(state, node, source, dimension)
    firsts = range(0, channels, sizes) if isinstance(sizes, int) else [0, *accumulate(sizes)][:-1]
    _cut(state, node, source, list(firsts))


def slice_channels(state: Import, node: fx.Node) -> None:
    """Channels from ``start`` to ``end``; a slice of all of a dimension is the tensor itself."""
    source, dimension, start, end, step = arguments(node)
    length = size_of(source)[int(dimension)] if isinstance(source, fx.Node) else 0
    chosen = np.arange(length)[slice(start, end, step)]
    if len(chosen) == length:
        view = state.view(source)
        state.show(node, view.name, view.dims, view.memory)
        return
    _channels(state, node, source, dimension)
    state.chosen.add(node)
    _select(state, node, state.map(node, source), chosen)


def shuffle(state: Import, node: fx.Node) -> None:
    """``torch.nn.ChannelShuffle``."""
    source, groups = arguments(node)
    name = state.map(node, source)
    channels = state.shapes[name][0]
    _select(state, node, name, np.arange(channels).reshape(int(groups), -1).T.reshape(-1))


def part(state: Import, node: fx.Node) -> bool:
    """Read ``getitem`` of a chunk or split; whether it is one."""
    source, index = node.args
    if not isinstance(source, fx.Node) or source not in state.parts:
        return False
    assert isinstance(index, int)
    name, chosen = state.parts[source][index]
    state.chosen.add(node)
    _select(state, node, name, chosen)
    return True


def group(state: Import, node: fx.Node) -> bool:
    """Read a reshape from ``(B, C, H, W)`` to ``(B, groups, C / groups, H, W)`` or back; whether it is one."""
    source, size = node.args[0], size_of(node)
    assert isinstance(source, fx.Node)
    if source in state.grouped:
        seen = state.grouped[source]
        shape = state.shapes[seen.value]
        if size[1:] != list(shape):
            raise UserError(f"node {node.name!r} reshapes channels in groups to {size}; the native backend joins them")
        order = np.arange(shape[0]).reshape(seen.groups, -1)
        _select(state, node, seen.value, (order.T if seen.swapped else order).reshape(-1))
        return True
    view = state.view(source)
    shape = state.shapes[view.name]
    if len(size) != 5 or view.dims != map_dims(shape) or size[3:] != list(shape[1:]) or size[1] * size[2] != shape[0]:
        return False
    state.grouped[node] = Grouped(view.name, size[1])
    return True


def swap(state: Import, node: fx.Node, order: list[int]) -> bool:
    """Read the exchange of groups and their channels; whether it is one."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or source not in state.grouped:
        return False
    if order != [0, 2, 1, 3, 4]:
        raise UserError(f"node {node.name!r} permutes channels in groups to {order}; the native backend has shuffles")
    seen = state.grouped[source]
    state.grouped[node] = msgspec.structs.replace(seen, swapped=not seen.swapped)
    return True


def keep(state: Import, node: fx.Node) -> bool:
    """Read a copy of channels in groups; whether it is one."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or source not in state.grouped:
        return False
    state.grouped[node] = state.grouped[source]
    return True


def _channels(state: Import, node: fx.Node, source: object, dimension: object) -> int:
    """The length of a dimension, which must be that of a map's channels."""
    view = state.view(source)
    shape = state.shapes[view.name]
    assert isinstance(dimension, int)
    if dimension % len(view.dims) != 1 or view.dims[1] != axis(shape, 1):
        raise UserError(
            f"node {node.name!r} ({node.target}) takes parts of dimension {dimension}; the native backend takes parts "
            f"of a map's channels, dimension 1"
        )
    return shape[0]


def _cut(state: Import, node: fx.Node, source: object, firsts: list[int]) -> None:
    name = state.map(node, source)
    ends = [*firsts, state.shapes[name][0]]
    state.parts[node] = [(name, np.arange(first, last)) for first, last in pairwise(ends)]


def _select(state: Import, node: fx.Node, name: str, chosen: NDArray[np.int64]) -> None:
    """Show the channels ``chosen`` of a value; nothing is done where these are all of them in order."""
    channels, height, width = state.shapes[name]
    if np.array_equal(chosen, np.arange(channels)):
        state.show(node, name, map_dims(state.shapes[name]))
        return
    weight = np.zeros((len(chosen), channels, 1, 1), np.float32)
    weight[np.arange(len(chosen)), chosen] = 1
    bias = np.zeros(len(chosen), np.float32)
    state.put(
        node,
        lambda output: Conv(output, name, node.name, "select", weight, bias),
        (len(chosen), height, width),
    )
