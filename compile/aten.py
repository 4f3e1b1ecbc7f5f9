"""What torch's operators are in the compiler's graph: one reader per operator, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from compile.graph import Activation, Conv, Elementwise, Mean, Node, Pool, Shape
from compile.passes.fold_batchnorm import tensor_of
from runtime.errors import UserError

aten = torch.ops.aten
Reader: TypeAlias = "Callable[[Import, fx.Node], None]"


class Import:
    """The graph so far: nodes, shapes, and which torch node a value came from (views share their source's value)."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}
        self.values: dict[fx.Node, str] = {}

    def value(self, node: object) -> str:
        """The name of the picture tensor that a torch node computes."""
        if not isinstance(node, fx.Node) or node not in self.values:
            raise UserError(f"the network computes with {node!r}, which is not a picture tensor; it cannot be compiled")
        return self.values[node]

    def put(self, source: fx.Node, make: Callable[[str], Node], shape: Shape) -> None:
        """Append the node that ``make`` makes for the value's name."""
        self.nodes.append(make(source.name))
        self.shapes[source.name] = shape
        self.values[source] = source.name

    def array(self, node: object) -> NDArray[np.float32] | None:
        """The weight that a torch node reads, or ``None`` where there is none."""
        if node is None:
            return None
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            raise UserError(f"weight {node!r} is computed at run time; bake the model before exporting it")
        tensor = tensor_of(self.module, node)
        assert tensor is not None
        return tensor.to(torch.float32).contiguous().numpy()


def _arguments(node: fx.Node) -> list[Any]:
    """All arguments in the order of the operator's schema, completed by name and default."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    given: list[Any] = list(node.args)
    for argument in schema[len(given) :]:
        given.append(node.kwargs.get(argument.name, argument.default_value))
    return given


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    assert isinstance(value, Sequence)
    return (int(value[0]), int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


def _shape(node: fx.Node) -> Shape:
    size = [int(length) for length in node.meta["val"].shape]
    if len(size) == 2:
        return size[1], 1, 1
    if len(size) != 4:
        raise UserError(f"node {node.name!r} has {len(size)} dimensions; the native backend takes maps (B, C, H, W)")
    return size[1], size[2], size[3]


def _layer_name(node: object) -> str:
    return str(node.target).rpartition(".")[0] if isinstance(node, fx.Node) else ""


def _conv2d(state: Import, node: fx.Node) -> None:
    source, weight_node, bias_node, stride, padding, dilation, groups = _arguments(node)
    weight = state.array(weight_node)
    assert weight is not None
    bias = state.array(bias_node)
    if isinstance(padding, str):
        sides = _named_padding(padding, weight.shape[2:], _pair(dilation))
    else:
        down, across = _pair(padding)
        sides = (down, across, down, across)
    assert isinstance(groups, int)
    state.put(
        node,
        lambda name: Conv(
            output=name,
            input=state.value(source),
            layer=_layer_name(weight_node),
            op="conv2d",
            weight=weight,
            bias=np.zeros(len(weight), np.float32) if bias is None else bias,
            stride=_pair(stride),
            padding=sides,
            dilation=_pair(dilation),
            groups=groups,
        ),
        _shape(node),
    )


def _named_padding(name: str, kernel: Sequence[int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if name == "valid":
        return 0, 0, 0, 0
    total = [step * (length - 1) for step, length in zip(dilation, kernel, strict=True)]
    top, left = total[0] // 2, total[1] // 2
    return top, left, total[0] - top, total[1] - left


def _linear(state: Import, node: fx.Node) -> None:
    source, weight_node, bias_node = _arguments(node)
    weight, bias = state.array(weight_node), state.array(bias_node)
    assert weight is not None
    name = state.value(source)
    channels, height, width = state.shapes[name]
    if channels * height * width != weight.shape[1]:
        raise UserError(
            f"node {node.name!r} is a linear layer over part of a map {state.shapes[name]}; flatten it first"
        )
    state.put(
        node,
        lambda output: Conv(
            output=output,
            input=name,
            layer=_layer_name(weight_node),
            op="linear",
            weight=weight.reshape(len(weight), channels, height, width),
            bias=np.zeros(len(weight), np.float32) if bias is None else bias,
        ),
        (len(weight), 1, 1),
    )


def _batch_norm(state: Import, node: fx.Node) -> None:
    source, scale_node, shift_node, mean_node, variance_node, _, _, epsilon, _ = _arguments(node)
    mean, variance = state.array(mean_node), state.array(variance_node)
    assert mean is not None
    assert variance is not None
    scale = state.array(scale_node)
    factor = (np.ones_like(mean) if scale is None else scale) / np.sqrt(variance.astype(np.float64) + float(epsilon))
    shift = state.array(shift_node)
    bias = (np.zeros_like(mean) if shift is None else shift) - mean * factor
    state.put(
        node,
        lambda name: Conv(
            output=name,
            input=state.value(source),
            layer=_layer_name(mean_node),
            op="batch_norm",
            weight=factor.astype(np.float32).reshape(-1, 1, 1, 1),
            bias=bias.astype(np.float32),
            groups=len(mean),
        ),
        _shape(node),
    )


def _activation(kind: Activation) -> Reader:
    def read(state: Import, node: fx.Node) -> None:
        if kind == "relu6" and tuple(_arguments(node)[1:3]) != (0.0, 6.0):
            raise UserError(f"node {node.name!r} clamps to {node.args[1:]}; the native backend has relu and relu6")
        source = state.value(node.args[0])
        state.put(node, lambda name: Elementwise(name, source, None, activation=kind), _shape(node))

    return read


def _add(state: Import, node: fx.Node) -> None:
    left, right, alpha = _arguments(node)
    names = state.value(left), state.value(right)
    if alpha != 1 or state.shapes[names[0]] != state.shapes[names[1]]:
        raise UserError(f"node {node.name!r} adds with a factor or a broadcast, which the native backend does not have")
    state.put(node, lambda name: Elementwise(name, names[0], names[1]), _shape(node))


def _pool(maximum: bool) -> Reader:
    def read(state: Import, node: fx.Node) -> None:
        source, kernel, stride, padding, *rest = _arguments(node)
        window = _pair(kernel)
        down, across = _pair(padding)
        if maximum:
            dilation, ceil = _pair(rest[0]), rest[1]
        else:
            dilation, ceil = (1, 1), rest[0]
            if ((down or across) and not rest[1]) or rest[2] is not None:
                raise UserError(f"node {node.name!r}: the native backend's average pooling counts its padding")
        steps = _pair(stride) if stride else window
        name, shape = state.value(source), _shape(node)
        sides = (down, across, down, across)
        if ceil:
            # a window that starts inside but ends past the padding reads more of it
            height, width = state.shapes[name][1:]
            below = (shape[1] - 1) * steps[0] + dilation[0] * (window[0] - 1) + 1 - height - down
            right = (shape[2] - 1) * steps[1] + dilation[1] * (window[1] - 1) + 1 - width - across
            if not maximum and (below > down or right > across):
                raise UserError(f"node {node.name!r}: average pooling with ceil_mode is not in the native backend")
            sides = (down, across, max(down, below), max(across, right))
        state.put(node, lambda out: Pool(out, name, maximum, window, steps, sides, dilation), shape)

    return read


def _mean(state: Import, node: fx.Node) -> None:
    source, dimensions, *_ = _arguments(node)
    if sorted(int(d) % 4 for d in dimensions) != [2, 3]:
        raise UserError(f"node {node.name!r} averages over dimensions {dimensions}; the native backend has (2, 3)")
    name = state.value(source)
    state.put(node, lambda output: Mean(output, name), (state.shapes[name][0], 1, 1))


def _adaptive_pool(state: Import, node: fx.Node) -> None:
    """Global mean, nothing at all, or an average over equal windows, according to the sizes."""
    source, size = _arguments(node)
    name, (rows, columns) = state.value(source), _pair(size)
    channels, height, width = state.shapes[name]
    if (rows, columns) == (1, 1):
        state.put(node, lambda output: Mean(output, name), (channels, 1, 1))
    elif (rows, columns) == (height, width):
        state.values[node] = name
    elif height % rows or width % columns:
        raise UserError(
            f"node {node.name!r} averages {height}x{width} pixels to {rows}x{columns} in unequal windows, "
            f"which the native backend does not have; use another picture size or backend"
        )
    else:
        window = (height // rows, width // columns)
        state.put(
            node, lambda output: Pool(output, name, False, window, window, (0, 0, 0, 0)), (channels, rows, columns)
        )


def _same_value(state: Import, node: fx.Node) -> None:
    """Flatten, reshape to (B, -1), dropout at inference: the same numbers under another shape."""
    source = state.value(node.args[0])
    if node.target is aten.dropout.default and node.args[2]:
        raise UserError(f"node {node.name!r} is an active dropout; export the model in eval mode")
    size = node.meta["val"].shape
    if node.target is not aten.dropout.default and (len(size) != 2 or math.prod(state.shapes[source]) != int(size[1])):
        raise UserError(f"node {node.name!r} reshapes to {tuple(size)}; the native backend can only flatten a picture")
    state.values[node] = source


READERS: dict[object, Reader] = {
    aten.conv2d.default: _conv2d,
    aten.conv2d.padding: _conv2d,
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten.relu.default: _activation("relu"),
    aten.relu_.default: _activation("relu"),
    aten.relu6.default: _activation("relu6"),
    aten.hardtanh.default: _activation("relu6"),
    aten.hardtanh_.default: _activation("relu6"),
    aten.add.Tensor: _add,
    aten.add_.Tensor: _add,
    aten.max_pool2d.default: _pool(maximum=True),
    aten.avg_pool2d.default: _pool(maximum=False),
    aten.adaptive_avg_pool2d.default: _adaptive_pool,
    aten.mean.dim: _mean,
    aten.flatten.using_ints: _same_value,
    aten.view.default: _same_value,
    aten.reshape.default: _same_value,
    aten.dropout.default: _same_value,
}
