"""Random small graphs of every kind of node, as a strategy of hypothesis."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from compile.graph import (
    ACTIVATIONS,
    AdaptivePool,
    Attention,
    Concat,
    Conv,
    Elementwise,
    Graph,
    LayerNorm,
    Mean,
    Move,
    Node,
    Pool,
    Resize,
    Shape,
    reads,
)


class Case(msgspec.Struct):
    """A graph under construction. A seed gives the same first nodes whatever their number, so that cases shrink."""

    random: np.random.Generator
    nodes: list[Node]
    shapes: dict[str, Shape]

    def pick(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def value(self, *names: str) -> str:
        """Any value so far, or one of some; rather a late one, so that graphs are deep."""
        known = names or tuple(self.shapes)
        return self.pick(known[-1], self.pick(*known))

    def normal(self, *shape: int) -> NDArray[np.float32]:
        return self.random.standard_normal(shape).astype(np.float32)

    def put(self, node: Node, shape: Shape) -> None:
        self.nodes.append(node)
        self.shapes[node.output] = shape


def add_conv(case: Case, output: str, keep: bool = False) -> None:
    """Any convolution, or one whose result has the shape of its input."""
    source = case.value()
    channels, *size = case.shapes[source]
    groups = case.pick(*(count for count in (1, 1, 2, channels) if channels % count == 0))
    outputs = channels if keep or groups == channels else groups * case.number(1, 6)
    (down, rows), (across, columns) = (window(case, length, keep=keep) for length in size)
    weight = case.normal(outputs, channels // groups, rows[0], columns[0])
    density = case.pick(0.0, 0.1, 0.5, 1.0)
    weight = np.where(case.random.random(weight.shape) < density, weight, np.float32(0))
    weight /= np.float32(max(1.0, np.sqrt(density * weight[0].size)))
    node = Conv(
        output,
        source,
        layer=output,
        op="conv2d",
        weight=weight,
        bias=case.normal(outputs),
        stride=(rows[1], columns[1]),
        padding=(rows[2], columns[2], rows[3], columns[3]),
        dilation=(rows[4], columns[4]),
        groups=groups,
    )
    case.put(node, (outputs, down, across))


def window(case: Case, length: int, keep: bool = False, dilated: bool = True) -> tuple[int, tuple[int, ...]]:
    """How many windows fit (``keep``: as many as pixels), and kernel, stride, padding before and after, dilation."""
    kernel, dilation = case.number(1, 4), case.number(1, 2) if dilated else 1
    if keep:
        before = case.number(0, dilation * (kernel - 1))
        return length, (kernel, 1, before, dilation * (kernel - 1) - before, dilation)
    before, after = (case.number(0, kernel // 2) for _ in range(2))
    if dilation * (kernel - 1) + 1 > length + before + after:
        kernel, dilation, before, after = 1, 1, 0, 0
    stride = case.number(1, 2)
    count = (length + before + after - dilation * (kernel - 1) - 1) // stride + 1
    return count, (kernel, stride, before, after, dilation)


def add_pool(case: Case, output: str) -> None:
    source, maximum = case.value(), case.pick(True, False)
    channels, *size = case.shapes[source]
    (down, rows), (across, columns) = (window(case, length, dilated=maximum) for length in size)
    padding = rows[2], columns[2], rows[3], columns[3]
    counted = None if maximum else case.pick(None, (0, 0, 0, 0))
    kernel, stride, dilation = ((rows[i], columns[i]) for i in (0, 1, 4))
    case.put(Pool(output, source, maximum, kernel, stride, padding, dilation, counted), (channels, down, across))


def add_adaptive_pool(case: Case, output: str) -> None:
    source, rows, columns = case.value(), case.number(1, 4), case.number(1, 4)
    case.put(
        AdaptivePool(output, source, case.pick(True, False), rows, columns), (case.shapes[source][0], rows, columns)
    )


def add_resize(case: Case, output: str) -> None:
    """Weights of any kind: a few of them in each row, some none at all."""
    source = case.value()
    channels, *size = case.shapes[source]
    matrices = []
    for length in size:
        matrix = case.random.uniform(-1, 1, (case.number(1, 12), length)).astype(np.float32)
        matrices.append(np.where(case.random.random(matrix.shape) < min(1, 2.5 / length), matrix, np.float32(0)))
    case.put(Resize(output, source, *matrices), (channels, len(matrices[0]), len(matrices[1])))


def add_mean(case: Case, output: str) -> None:
    source = case.value()
    case.put(Mean(output, source), (case.shapes[source][0], 1, 1))


def add_activation(case: Case, output: str) -> None:
    source = case.value()
    case.put(Elementwise(output, source, None, activation=case.pick(*ACTIVATIONS[1:])), case.shapes[source])


def add_pair(case: Case, output: str) -> None:
    """Two maps of one shape, perhaps the same one."""
    left = case.value()
    right = case.value(*(name for name, shape in case.shapes.items() if shape == case.shapes[left]))
    node = Elementwise(output, left, right, case.pick("add", "multiply"), case.pick("identity", "identity", "relu"))
    case.put(node, case.shapes[left])


def add_excitation(case: Case, output: str) -> None:
    """A map and one number per channel and picture of it: the mean, an activation, and the product or sum."""
    left = case.value()
    channels = case.shapes[left][0]
    case.put(Mean(f"{output}_mean", left), (channels, 1, 1))
    gate = Elementwise(f"{output}_gate", f"{output}_mean", None, activation=case.pick("sigmoid", "hardsigmoid"))
    case.put(gate, (channels, 1, 1))
    case.put(Elementwise(output, left, gate.output, case.pick("multiply", "add")), case.shapes[left])


def add_concat(case: Case, output: str) -> None:
    first = case.value()
    same = [name for name, shape in case.shapes.items() if shape[1:] == case.shapes[first][1:]]
    inputs = (first, *(case.value(*same) for _ in range(case.number(1, 3))))
    case.put(Concat(output, inputs), (sum(case.shapes[name][0] for name in inputs), *case.shapes[first][1:]))


def add_layer_norm(case: Case, output: str) -> None:
    source = case.value()
    channels = case.shapes[source][0]
    # a large epsilon: the difference of nearly equal numbers would have no digits in torch either
    case.put(LayerNorm(output, source, case.normal(channels), case.normal(channels), 0.1), case.shapes[source])


def add_move(case: Case, output: str) -> None:
    """Any pixels of some of the channels, some of them nowhere, in a map of another size."""
    source = case.value()
    channels, height, width = case.shapes[source]
    first, size = case.number(0, channels - 1), (case.number(1, 9), case.number(1, 9))
    positions = case.random.integers(-1, height * width, size[0] * size[1])
    shape = (case.number(1, channels - first), *size)
    shift = case.normal(*shape) if case.pick(True, False) else None
    case.put(Move(output, source, first, positions, shift), shape)


def add_attention(case: Case, output: str) -> None:
    """Queries, keys and values from maps of one size, at any channels of them."""
    names = [case.value()]
    same = [name for name, shape in case.shapes.items() if shape[1:] == case.shapes[names[0]][1:]]
    names += [case.value(*same), case.value(*same)]
    channels = [case.shapes[name][0] for name in names]
    _, height, width = case.shapes[names[0]]
    heads = case.number(1, min(2, *channels))
    sizes = case.number(1, min(channels[:2]) // heads), case.number(1, channels[2] // heads)
    used = (sizes[0], sizes[0], sizes[1])
    first = tuple(case.number(0, count - heads * size) for count, size in zip(channels, used, strict=True))
    bias = case.normal(case.pick(1, height), case.pick(1, heads), width, width) if case.pick(True, False) else None
    scale = case.normal(heads) / np.float32(4)
    # a large epsilon: a short vector's direction would have no digits in torch either
    node = Attention(output, *names, first, sizes, scale, bias, case.pick(None, 0.5))
    case.put(node, (heads * sizes[1], height, width))


def add_block(case: Case, output: str) -> None:
    """A convolution with what may follow it in its epilogue."""
    add_conv(case, f"{output}_conv", keep=case.pick(True, True, False))
    shape = case.shapes[f"{output}_conv"]
    same = [name for name, other in case.shapes.items() if other == shape and name != f"{output}_conv"]
    last = f"{output}_conv"
    for index in range(case.number(1, 3)):
        name = f"{output}_{index}"
        other = case.pick(*same, None) if same else None
        op, activation = case.pick("add", "multiply"), case.pick("identity", *ACTIVATIONS)
        case.put(Elementwise(name, last, other, op, activation), shape)
        last = name


ADD = (
    *(add_block, add_block, add_block, add_conv, add_pool, add_adaptive_pool, add_mean, add_activation),
    *(add_pair, add_excitation, add_concat, add_concat, add_layer_norm, add_resize, add_move, add_attention),
    add_attention,
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to ten nodes or groups of them; what nothing reads is returned, or pooled to one size and joined.

    Where it is returned, so are some of the values that others read.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (int(random.integers(1, 6)), int(random.integers(1, 18)), int(random.integers(1, 18)))
    case = Case(random, [], {"input": shape})
    for index in range(draw(st.integers(2, 10))):
        case.pick(*ADD)(case, f"v{index}")
    read = {value for node in case.nodes for value in reads(node)}
    ends = [name for name in case.shapes if name not in read]
    output = ends[0]
    if case.pick(True, False):
        more = [name for name in case.shapes if name != output and (name in ends or case.pick(True, False, False))]
        return Graph("input", output, tuple(case.nodes), case.shapes, tuple(more))
    if len(ends) > 1:
        for name in ends:
            case.put(AdaptivePool(f"{name}_end", name, False, 3, 2), (case.shapes[name][0], 3, 2))
        output = "output"
        channels = sum(case.shapes[name][0] for name in ends)
        case.put(Concat(output, tuple(f"{name}_end" for name in ends)), (channels, 3, 2))
    return Graph("input", output, tuple(case.nodes), case.shapes)
