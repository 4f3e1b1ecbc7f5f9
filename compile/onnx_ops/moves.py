"""ONNX operators that take tensors apart, join them, repeat them and reorder their elements."""

from __future__ import annotations

import operator

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import fx

from compile.onnx_ops.state import Reader, Translation, attribute, refusal

aten = torch.ops.aten


def _concat(state: Translation, node: NodeProto) -> None:
    if len(node.input) == 1:
        state.values[node.output[0]] = state.value(node.input[0])
        return
    parts = [state.operand(name) for name in node.input]
    state.put(node, aten.cat.default, parts, int(attribute(node, "axis", 0)))


def _slice(state: Translation, node: NodeProto) -> None:
    starts, ends = state.constant(node, 1, "first places"), state.constant(node, 2, "last places")
    axes, steps = state.constant(node, 3, "axes"), state.constant(node, 4, "steps")
    assert starts is not None
    assert ends is not None
    value, size = state.value(node.input[0]), state.size(node.input[0])
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = (number if axes is None else int(axes[number])) % len(size)
        step = 1 if steps is None else int(steps[number])
        places = np.arange(size[axis])[slice(start, end, step)]
        if np.array_equal(places, np.arange(size[axis])):
            continue
        if step > 0 and len(places):
            value = state.emit(
                node.output[0], aten.slice.Tensor, value, axis, int(places[0]), int(places[-1]) + 1, step
            )
        else:
            value = _select(state, node, value, axis, places)
    state.values[node.output[0]] = value


def _split(state: Translation, node: NodeProto) -> None:
    size, given = state.size(node.input[0]), state.constant(node, 1, "sizes")
    axis = int(attribute(node, "axis", 0)) % len(size)
    if given is None:
        part = -(-size[axis] // len(node.output))
        firsts = range(0, size[axis], part)
        given = np.array([min(part, size[axis] - first) for first in firsts])
    if len(given) != len(node.output):
        raise refusal(node, f"cuts {size[axis]} into {len(given)} parts for {len(node.output)} results")
    sizes = [int(length) for length in given]
    name = f"{node.output[0]}_parts"
    parts = state.emit(name, aten.split_with_sizes.default, state.value(node.input[0]), sizes, axis)
    for number, output in enumerate(node.output):
        if output in state.users:
            state.values[output] = state.emit(output, operator.getitem, parts, number)


def _gather(state: Translation, node: NodeProto) -> None:
    where = state.constant(node, 1, "indices")
    value, size = state.value(node.input[0]), state.size(node.input[0])
    axis = int(attribute(node, "axis", 0)) % len(size)
    assert where is not None
    places = np.asarray(where, np.int64)
    if places.size and (places.min() < -size[axis] or places.max() >= size[axis]):
        raise refusal(node, f"takes places {places.min()} to {places.max()} of {size[axis]}")
    if places.ndim == 0:
        state.put(node, aten.select.int, value, axis, int(places))
        return
    value = _select(state, node, value, axis, places.reshape(-1) % size[axis])
    if places.ndim > 1:
        sizes = [*size[:axis], *places.shape, *size[axis + 1 :]]
        value = state.emit(node.output[0], aten.reshape.default, value, sizes)
    state.values[node.output[0]] = value


def _gather_nd(state: Translation, node: NodeProto) -> None:
    """Elements by their first coordinates, which the last dimension of the indices holds."""
    where, value, size = state.constant(node, 1, "indices"), state.value(node.input[0]), state.size(node.input[0])
    assert where is not None
    if attribute(node, "batch_dims", 0):
        raise refusal(node, "takes other elements of each picture (batch_dims), which the native backend does not have")
    places = [state.held(np.array(part, np.int64), f"{node.output[0]}.places") for part in np.moveaxis(where, -1, 0)]
    if any(
        (part >= length).any() or (part < -length).any()
        for part, length in zip(np.moveaxis(where, -1, 0), size, strict=False)
    ):
        raise refusal(node, f"takes elements outside of {size}")
    state.put(node, aten.index.Tensor, value, places)


def _select(state: Translation, node: NodeProto, value: fx.Node, axis: int, places: NDArray[np.int64]) -> fx.Node:
    held = state.held(np.array(places, np.int64), f"{node.output[0]}.places")
    return state.emit(node.output[0], aten.index_select.default, value, axis, held)


def _expand(state: Translation, node: NodeProto) -> None:
    wanted, size = state.constant(node, 1, "shape"), state.size(node.input[0])
    assert wanted is not None
    try:
        sizes = list(np.broadcast_shapes(tuple(size), tuple(int(length) for length in wanted)))
    except ValueError:
        raise refusal(node, f"expands {size} to {wanted.tolist()}, which does not fit") from None
    if sizes == size:
        state.values[node.output[0]] = state.value(node.input[0])
    else:
        state.put(node, aten.expand.default, state.value(node.input[0]), sizes)


def _tile(state: Translation, node: NodeProto) -> None:
    counts = state.constant(node, 1, "counts")
    assert counts is not None
    state.put(node, aten.repeat.default, state.value(node.input[0]), [int(count) for count in counts])


def _depth_to_space(state: Translation, node: NodeProto) -> None:
    """``DCR``: blocks before channels; ``CRD``: torch's pixel shuffle."""
    value, step = state.value(node.input[0]), int(attribute(node, "blocksize", 1))
    if attribute(node, "mode", "DCR") == "CRD":
        state.put(node, aten.pixel_shuffle.default, value, step)
        return
    batch, channels, height, width = state.size(node.input[0])
    shapes = [batch, step, step, channels // step**2, height, width], [batch, -1, height * step, width * step]
    _regroup(state, node, *shapes, order=[0, 3, 4, 1, 5, 2])


def _space_to_depth(state: Translation, node: NodeProto) -> None:
    step = int(attribute(node, "blocksize", 1))
    batch, channels, height, width = state.size(node.input[0])
    shapes = [batch, channels, height // step, step, width // step, step], [batch, -1, height // step, width // step]
    _regroup(state, node, *shapes, order=[0, 3, 5, 1, 2, 4])


def _regroup(state: Translation, node: NodeProto, apart: list[int], joined: list[int], order: list[int]) -> None:
    output = node.output[0]
    value = state.emit(output, aten.reshape.default, state.value(node.input[0]), apart)
    value = state.emit(output, aten.permute.default, value, order)
    state.put(node, aten.reshape.default, value, joined)


READERS: dict[str, Reader] = {
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
