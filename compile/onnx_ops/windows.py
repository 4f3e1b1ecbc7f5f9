"""ONNX operators that slide a window over a map: convolution, pooling, and the padding before them."""

from __future__ import annotations

from typing import final

import numpy as np
from onnx import NodeProto

from compile.graph import Conv, Pool
from compile.onnx_ops.state import Import, Pending, Reader, View, attribute, refusal

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


@final
class Padded(Pending):
    """A map with zeros around it; ``sides`` is ``(top, left, bottom, right)``. The next convolution absorbs them."""

    def __init__(self, node: NodeProto, value: str, sides: Sides) -> None:
        self.node = node
        self.value = value
        self.sides = sides

    def settle(self, state: Import) -> View:
        """A 1x1 convolution of each channel by one, which pads."""
        channels, height, width = state.shapes[self.value]
        top, left, bottom, right = self.sides
        output = self.node.output[0]
        layer = state.new_layer(output)
        ones, zeros = np.ones((channels, 1, 1, 1), np.float32), np.zeros(channels, np.float32)
        state.put_map(
            output,
            lambda name: Conv(name, self.value, layer, "pad", ones, zeros, (1, 1), self.sides, groups=channels),
            (channels, height + top + bottom, width + left + right),
        )
        return state.view(output)


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


def _room(size: int, sides: Pair, kernel: int, dilation: int) -> int:
    """Pixels by which a window can move."""
    return size + sum(sides) - dilation * (kernel - 1) - 1


def _source(state: Import, node: NodeProto) -> tuple[str, Sides]:
    """The map that a window reads, and the zeros that a Pad put around it."""
    found = state.values.get(node.input[0])
    if isinstance(found, Padded):
        return found.value, found.sides
    return state.map(node, node.input[0]), (0, 0, 0, 0)


def _conv(state: Import, node: NodeProto) -> None:
    weight, bias = state.weight(node, 1, "weight"), state.weight(node, 2, "bias")
    assert weight is not None
    if weight.ndim != 4:
        raise refusal(node, f"has a weight of shape {weight.shape}; the native backend has convolutions over (H, W)")
    source, around = _source(state, node)
    channels, height, width = state.shapes[source]
    groups, kernel = int(attribute(node, "group", 1)), (weight.shape[2], weight.shape[3])
    if weight.shape[1] * groups != channels or len(weight) % groups:
        raise refusal(node, f"has a weight of shape {weight.shape} in {groups} groups for {channels} channels")
    size = height + around[0] + around[2], width + around[1] + around[3]
    stride, dilation, pads = _window(node, size, kernel)
    top, left, bottom, right = (a + b for a, b in zip(pads, around, strict=True))
    rows = _room(height, (top, bottom), kernel[0], dilation[0]) // stride[0] + 1
    columns = _room(width, (left, right), kernel[1], dilation[1]) // stride[1] + 1
    layer = state.layer_name(node)
    state.put_map(
        node.output[0],
        lambda name: Conv(
            output=name,
            input=source,
            layer=layer,
            op="conv2d",
            weight=weight,
            bias=np.zeros(len(weight), np.float32) if bias is None else bias,
            stride=stride,
            padding=(top, left, bottom, right),
            dilation=dilation,
            groups=groups,
        ),
        (len(weight), rows, columns),
    )


def _pool(state: Import, node: NodeProto) -> None:
    maximum = node.op_type == "MaxPool"
    # zeros that a Pad put around the map are pixels to an average, but the padding of a maximum is less than any zero
    source, around = (state.map(node, node.input[0]), (0, 0, 0, 0)) if maximum else _source(state, node)
    if len(node.output) > 1 and node.output[1] in state.users:
        raise refusal(node, "returns the places of its maxima, which the native backend does not have")
    channels, height, width = state.shapes[source]
    kernel = _pair(node, "kernel_shape", (1, 1))
    size = height + around[0] + around[2], width + around[1] + around[3]
    stride, dilation, pads = _window(node, size, kernel)
    top, left, bottom, right = (a + b for a, b in zip(pads, around, strict=True))
    ceil = bool(attribute(node, "ceil_mode", 0))
    rows, below = _outputs(height, (top, bottom), kernel[0], stride[0], dilation[0], ceil)
    columns, beside = _outputs(width, (left, right), kernel[1], stride[1], dilation[1], ceil)
    sides = (top, left, max(bottom, below), max(right, beside))
    inside = (top, left, bottom, right) if attribute(node, "count_include_pad", 0) else around
    counted = None if maximum or inside == sides else inside
    state.put_map(
        node.output[0],
        lambda name: Pool(name, source, maximum, kernel, stride, sides, dilation, counted),
        (channels, rows, columns),
    )


def _outputs(size: int, sides: Pair, kernel: int, stride: int, dilation: int, ceil: bool) -> tuple[int, int]:
    """Output length, and the padding that the last window reads at the end."""
    room = _room(size, sides, kernel, dilation)
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= size + sides[0]:
        count -= 1  # a window must start inside the picture or the padding before it
    return count, (count - 1) * stride + dilation * (kernel - 1) + 1 - size - sides[0]


def _global_max(state: Import, node: NodeProto) -> None:
    source = state.map(node, node.input[0])
    channels, height, width = state.shapes[source]
    state.put_map(
        node.output[0],
        lambda name: Pool(name, source, True, (height, width), (1, 1), (0, 0, 0, 0)),
        (channels, 1, 1),
    )


def _pad(state: Import, node: NodeProto) -> None:
    pads = state.constant(node, 1, "padding")
    fill, axes = state.constant(node, 2, "padding value"), state.constant(node, 3, "axes")
    assert pads is not None
    where = range(4) if axes is None else [int(axis) % 4 for axis in axes]
    around = np.zeros((2, 4), np.int64)
    around[:, list(where)] = np.asarray(pads).reshape(2, -1)
    mode = attribute(node, "mode", "constant")
    if mode != "constant" or (fill is not None and np.any(fill)):
        what = mode if mode != "constant" else f"the value {np.asarray(fill).item():g}"
        raise refusal(node, f"pads with {what}; the native backend pads with zeros")
    if around[:, :2].any() or around.min() < 0:
        raise refusal(node, f"pads by {pads.tolist()}; the native backend pads rows and columns by zero or more")
    source, before = _source(state, node)
    sides = (around[0, 2], around[0, 3], around[1, 2], around[1, 3])
    top, left, bottom, right = (int(a) + b for a, b in zip(sides, before, strict=True))
    state.values[node.output[0]] = Padded(node, source, (top, left, bottom, right))


READERS: dict[str, Reader] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalMaxPool": _global_max,
    "Pad": _pad,
}
