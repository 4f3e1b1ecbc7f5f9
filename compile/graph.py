"""The compiler's own graph: the few operators of a vision network, with folded weights and fused epilogues.

Values are named; a value's shape is ``(C, H, W)``, the batch is the target's. A linear layer on a flattened map is the
convolution whose kernel is the whole map, so there is one operator with weights. A permuted map ``(B, H, W, C)`` is the
same value: a reader keeps track of the order of its axes, the graph does not know them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError

Shape: TypeAlias = tuple[int, int, int]

Activation: TypeAlias = Literal[
    "identity", "relu", "relu6", "silu", "hardswish", "sigmoid", "hardsigmoid", "gelu", "gelu_tanh", "tanh"
]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
"""As torch defines them; ``gelu`` is the exact one (erf), ``gelu_tanh`` its approximation."""


class Conv(msgspec.Struct, frozen=True):
    """``activation(conv(input) + bias + residual) * factor``.

    ``weight`` is ``(N, C/groups, R, S)``, ``padding`` is ``(top, left, bottom, right)``. ``layer`` is the module's
    qualified name, ``op`` what the user calls it: ``conv2d`` or ``linear``. ``residual`` and ``factor`` are values of
    the result's shape.
    """

    output: str
    input: str
    layer: str
    op: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation = "identity"
    residual: str | None = None
    factor: str | None = None


class Pool(msgspec.Struct, frozen=True):
    """Max or average over a window; ``padding`` as in ``Conv``.

    An average divides by the whole window, or, where ``counted`` is given, by the positions of the window that lie in
    the picture extended by ``counted`` (top, left, bottom, right): all zeros if padding is not to be counted.
    """

    output: str
    input: str
    maximum: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)
    counted: tuple[int, int, int, int] | None = None


class AdaptivePool(msgspec.Struct, frozen=True):
    """Max or average over ``rows`` x ``columns`` windows that cover the map, as torch defines them.

    Window ``i`` of ``n`` over a length ``L`` is ``floor(i L / n) <= position < ceil((i + 1) L / n)``; windows may
    overlap, and there may be more of them than pixels.
    """

    output: str
    input: str
    maximum: bool
    rows: int
    columns: int


class Mean(msgspec.Struct, frozen=True):
    """Mean over all pixels of each channel: ``(C, H, W)`` to ``(C, 1, 1)``."""

    output: str
    input: str


class Elementwise(msgspec.Struct, frozen=True):
    """``activation(left + right)`` or ``activation(left * right)``; ``right`` is ``None`` for an activation alone.

    ``right`` has the shape of ``left``, or is ``(C, 1, 1)`` and holds for all pixels of a channel (squeeze-excite).
    """

    output: str
    left: str
    right: str | None
    op: Literal["add", "multiply"] = "add"
    activation: Activation = "identity"


class Concat(msgspec.Struct, frozen=True):
    """Maps of one size, one after another along the channels."""

    output: str
    inputs: tuple[str, ...]


class Resize(msgspec.Struct, frozen=True):
    """Another size: each pixel is a weighted sum of the input's, by row and by column.

    ``rows`` is ``(new height, height)`` and ``columns`` is ``(new width, width)``; pixel ``(y, x)`` is the sum over
    ``(i, j)`` of ``rows[y, i] * columns[x, j] * input[i, j]``. Most of both is zero.
    """

    output: str
    input: str
    rows: NDArray[np.float32]
    columns: NDArray[np.float32]


class LayerNorm(msgspec.Struct, frozen=True):
    """Normalises the channels of each pixel by themselves, then ``* weight + bias`` ``(C,)`` each."""

    output: str
    input: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    epsilon: float


class Move(msgspec.Struct, frozen=True):
    """Pixels of a map in other places: ``result[c, p] = input[first + c, positions[p]] + shift[c, p]``.

    Pixels are numbered row by row; ``positions`` ``(H * W,)`` has -1 where the result has no pixel of the input.
    ``shift`` ``(C, H, W)`` is zero where it is not given.
    """

    output: str
    input: str
    first: int
    positions: NDArray[np.int64]
    shift: NDArray[np.float32] | None = None


class Attention(msgspec.Struct, frozen=True):
    """Each pixel's weighted mean of its row: ``softmax(scale query key^T + bias) value``, head by head.

    A row of a map is a window, its pixels are the window's tokens. Head ``h`` has the ``sizes[0]`` channels of
    ``query`` and ``key`` and the ``sizes[1]`` of ``value`` from ``firsts + h * size`` on, and ``scale[h]``. ``bias`` is
    ``(H or 1, heads or 1, queries, keys)``. Where ``epsilon`` is given, queries and keys are first divided by their
    length, or by ``epsilon`` if that is more (cosine attention).
    """

    output: str
    query: str
    key: str
    value: str
    firsts: tuple[int, int, int]
    sizes: tuple[int, int]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    epsilon: float | None = None


Node: TypeAlias = "Conv | Pool | AdaptivePool | Mean | Resize | Elementwise | Concat | LayerNorm | Move | Attention"


class Graph(msgspec.Struct, frozen=True):
    """Nodes in execution order; ``shapes`` has every value, the input included.

    ``more_outputs`` are the results after the first one, ``output``; ``outputs`` are all. A value may be among them
    more than once, and others may read it.
    """

    input: str
    output: str
    nodes: tuple[Node, ...]
    shapes: dict[str, Shape]
    more_outputs: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The values that are returned, in order."""
        return (self.output, *self.more_outputs)


def refuse_others(graph: Graph, known: Collection[type], target: str) -> None:
    """Let a target that has only some kinds of nodes say so.

    Raises:
        UserError: a node is of another kind.
    """
    for node in graph.nodes:
        if type(node) not in known:
            raise UserError(f"node {node.output!r} is of the kind {type(node).__name__}, which {target} does not have")


def reads(node: Node) -> tuple[str, ...]:
    """The values that a node reads."""
    if isinstance(node, Conv):
        return tuple(value for value in (node.input, node.residual, node.factor) if value is not None)
    if isinstance(node, Elementwise):
        return (node.left,) if node.right is None else (node.left, node.right)
    if isinstance(node, Concat):
        return node.inputs
    if isinstance(node, Attention):
        return node.query, node.key, node.value
    return (node.input,)
