"""ONNX operators that slide a window over a map: convolution, pooling, and the padding before them.

ONNX pads each side by itself, torch's operators pad both sides alike: these have targets of their own.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from onnx import NodeProto
from torch import Tensor, fx

from compile.aten.nodes import layer_name, map_shape
from compile.aten.state import Import
from compile.aten.state import Reader as TorchReader
from compile.graph import Conv, Pool
from compile.onnx_ops.state import Pending, Reader, Translation, attribute, refusal

aten = torch.ops.aten
Pair = tuple[int, int]
Sides = tuple[int, int, int, int]
"""``(top, left, bottom, right)``."""


def padded_conv(
    x: Tensor, weight: Tensor, bias: Tensor, stride: Pair, sides: Sides, dilation: Pair, groups: int
) -> Tensor:
    """A convolution with zeros on four sides."""
    return F.conv2d(_padded(x, sides), weight, bias, stride, 0, dilation, groups)


def padded_pool(
    x: Tensor, maximum: bool, kernel: Pair, stride: Pair, sides: Sides, dilation: Pair, counted: Sides | None
) -> Tensor:
    """A pooling of the shape that the graph's ``Pool`` has; for shapes alone, whatever it is of."""
    del maximum, counted
    return F.max_pool2d(_padded(x, sides), kernel, stride, 0, dilation)


def _padded(x: Tensor, sides: Sides) -> Tensor:
    top, left, bottom, right = sides
    return F.pad(x, (left, right, top, bottom))


def _read_conv(state: Import, node: fx.Node) -> None:
    source, weight_node, bias_node, stride, sides, dilation, groups = node.args
    weight, bias = state.array(weight_node), state.array(bias_node)
    assert weight is not None
    assert bias is not None
    name, layer = state.map(node, source), layer_name(weight_node)
    make = Conv(node.name, name, layer, "conv2d", weight, bias, stride, sides, dilation, groups)  # type: ignore[arg-type]
    state.put(node, lambda _: make, map_shape(node))


def _read_pool(state: Import, node: fx.Node) -> None:
    make = Pool(node.name, state.map(node, node.args[0]), *node.args[1:])  # type: ignore[arg-type]
    state.put(node, lambda _: make, map_shape(node))


TARGETS: dict[object, TorchReader] = {padded_conv: _read_conv, padded_pool: _read_pool}


@final
class Padded(Pending):
    """A map with zeros around it. The next convolution absorbs them."""

    def __init__(self, output: str, source: fx.Node, sides: Sides) -> None:
        self.output = output
        self.source = source
        self.sides = sides

    def settle(self, state: Translation) -> fx.Node:
        """Pixels moved to where zeros are around them."""
        top, left, bottom, right = self.sides
        return state.emit(self.output, aten.constant_pad_nd.default, self.source, [left, right, top, bottom], 0)

    def size(self) -> list[int]:
        """See ``Pending``."""
        top, left, bottom, right = self.sides
        *lead, height, width = self.source.meta["val"].shape
        return [*lead, height + top + bottom, width + left + right]


def _pair(node: NodeProto, name: str, default: Pair) -> Pair:
    value = attribute(node, name, default)
    if len(value) != 2:
        raise refusal(node, f"has {len(value)} numbers of {name}; the native backend has windows over (H, W)")
    return int(value[0]), int(value[1])


def _window(node: NodeProto, size: Pair, kernel: Pair) -> tuple[Pair, Pair, Sides]:
    """Stride, dilation and padding, ``auto_pad`` worked out."""
    stride, dilation = _pair(node, "strides", (1, 1)), _pair(node, "dilations", (1, 1))
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode == "VALID":
        return stride, dilation, (0, 0, 0, 0)
    if mode == "NOTSET":
        pads = [int(n) for n in attribute(node, "pads", (0, 0, 0, 0))]
        if len(pads) != 4 or min(pads) < 0:
            raise refusal(node, f"has the padding {pads}; the native backend has four sides of zero or more")
        return stride, dilation, (pads[0], pads[1], pads[2], pads[3])
    begin, end = [0, 0], [0, 0]
    for axis in range(2):
        outputs = -(-size[axis] // stride[axis])
        total = max(0, (outputs - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - size[axis])
        small, large = total // 2, total - total // 2
        begin[axis], end[axis] = (small, large) if mode == "SAME_UPPER" else (large, small)
    return stride, dilation, (begin[0], begin[1], end[0], end[1])


def _source(state: Translation, node: NodeProto) -> tuple[fx.Node, Sides]:
    """The map that a window reads, and the zeros that a Pad put around it."""
    found = state.values.get(node.input[0])
    if isinstance(found, Padded):
        return found.source, found.sides
    return state.value(node.input[0]), (0, 0, 0, 0)


def _map_size(node: NodeProto, source: fx.Node, around: Sides = (0, 0, 0, 0)) -> tuple[int, Pair]:
    """Channels, height and width with the zeros around."""
    size = source.meta["val"].shape
    if len(size) != 4:
        raise refusal(node, f"reads a value of shape {tuple(size)}; the native backend has windows over (B, C, H, W)")
    return size[1], (size[2] + around[0] + around[2], size[3] + around[1] + around[3])


def _conv(state: Translation, node: NodeProto) -> None:
    weight, bias = state.weight(node, 1, "weight"), state.weight(node, 2, "bias")
    assert weight is not None
    if weight.ndim != 4:
        raise refusal(node, f"has a weight of shape {weight.shape}; the native backend has convolutions over (H, W)")
    source, around = _source(state, node)
    channels, size = _map_size(node, source, around)
    groups, kernel = int(attribute(node, "group", 1)), (weight.shape[2], weight.shape[3])
    if weight.shape[1] * groups != channels or len(weight) % groups:
        raise refusal(node, f"has a weight of shape {weight.shape} in {groups} groups for {channels} channels")
    stride, dilation, pads = _window(node, size, kernel)
    room = [_room(size[i], (pads[i], pads[i + 2]), kernel[i], dilation[i]) for i in (0, 1)]
    if min(room) < 0:
        shape = (len(weight), *(room[i] // stride[i] + 1 for i in (0, 1)))
        raise refusal(node, f"would have a result of shape {shape}; the picture is too small for this network")
    sides = tuple(a + b for a, b in zip(pads, around, strict=True))
    layer = state.layer_name(node)
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    operands = state.held(weight, layer), state.held(bias, f"{layer}.bias")
    state.put(node, padded_conv, source, *operands, stride, sides, dilation, groups)


def _pool(state: Translation, node: NodeProto) -> None:
    maximum = node.op_type == "MaxPool"
    # zeros that a Pad put around the map are pixels to an average, but the padding of a maximum is less than any zero
    source, around = (state.value(node.input[0]), (0, 0, 0, 0)) if maximum else _source(state, node)
    if len(node.output) > 1 and node.output[1] in state.users:
        raise refusal(node, "returns the places of its maxima, which the native backend does not have")
    _, (height, width) = _map_size(node, source)
    kernel = _pair(node, "kernel_shape", (1, 1))
    size = height + around[0] + around[2], width + around[1] + around[3]
    stride, dilation, pads = _window(node, size, kernel)
    top, left, bottom, right = (a + b for a, b in zip(pads, around, strict=True))
    ceil = bool(attribute(node, "ceil_mode", 0))
    below = _reach(height, (top, bottom), kernel[0], stride[0], dilation[0], ceil)
    beside = _reach(width, (left, right), kernel[1], stride[1], dilation[1], ceil)
    sides = (top, left, max(bottom, below), max(right, beside))
    inside = (top, left, bottom, right) if attribute(node, "count_include_pad", 0) else around
    counted = None if maximum or inside == sides else inside
    state.put(node, padded_pool, source, maximum, kernel, stride, sides, dilation, counted)


def _room(size: int, sides: Pair, kernel: int, dilation: int) -> int:
    """Pixels by which a window can move."""
    return size + sum(sides) - dilation * (kernel - 1) - 1


def _reach(size: int, sides: Pair, kernel: int, stride: int, dilation: int, ceil: bool) -> int:
    """The padding that the last window reads at the end."""
    room = _room(size, sides, kernel, dilation)
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= size + sides[0]:
        count -= 1  # a window must start inside the picture or the padding before it
    return (count - 1) * stride + dilation * (kernel - 1) + 1 - size - sides[0]


def _global_max(state: Translation, node: NodeProto) -> None:
    source = state.value(node.input[0])
    _, size = _map_size(node, source)
    state.put(node, padded_pool, source, True, size, (1, 1), (0, 0, 0, 0), (1, 1), None)


def _pad(state: Translation, node: NodeProto) -> None:
    pads = state.constant(node, 1, "padding")
    fill, axes = state.constant(node, 2, "padding value"), state.constant(node, 3, "axes")
    assert pads is not None
    rank = len(state.size(node.input[0]))
    where = range(rank) if axes is None else [int(axis) % rank for axis in axes]
    around = np.zeros((2, rank), np.int64)
    around[:, list(where)] = np.asarray(pads).reshape(2, -1)
    mode = attribute(node, "mode", "constant")
    if mode != "constant" or (fill is not None and np.any(fill)):
        what = mode if mode != "constant" else f"the value {np.asarray(fill).item():g}"
        raise refusal(node, f"pads with {what}; the native backend pads with zeros")
    if rank == 4 and not around[:, :2].any() and around.min() >= 0:
        source, before = _source(state, node)
        sides = (around[0, 2], around[0, 3], around[1, 2], around[1, 3])
        top, left, bottom, right = (int(a) + b for a, b in zip(sides, before, strict=True))
        state.values[node.output[0]] = Padded(node.output[0], source, (top, left, bottom, right))
        return
    if around[:, 0].any():
        raise refusal(node, f"pads by {np.asarray(pads).tolist()}, the batch too; st3 keeps the pictures of it apart")
    # torch counts from the last dimension on
    state.put(node, aten.constant_pad_nd.default, state.value(node.input[0]), around.T[::-1].reshape(-1).tolist(), 0)


READERS: dict[str, Reader] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalMaxPool": _global_max,
    "Pad": _pad,
}
