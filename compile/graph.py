"""The compiler's own graph: the few operators of a vision network, with folded weights and fused epilogues.

Values are named; a value's shape is ``(C, H, W)``, the batch is the target's. A linear layer on a flattened map is the
convolution whose kernel is the whole map, so there is one operator with weights.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Shape: TypeAlias = tuple[int, int, int]


class Conv(msgspec.Struct, frozen=True):
    """``activation(conv(input) + bias + residual)``.

    ``weight`` is ``(N, C/groups, R, S)``, ``padding`` is ``(top, left, bottom, right)``. ``layer`` is the module's
    qualified name, ``op`` what the user calls it: ``conv2d`` or ``linear``.
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
    activation: str = "identity"
    residual: str | None = None


class Pool(msgspec.Struct, frozen=True):
    """Max or average over a window; ``padding`` as in ``Conv``; an average divides by the whole window."""

    output: str
    input: str
    maximum: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)


class Mean(msgspec.Struct, frozen=True):
    """Mean over all pixels of each channel: ``(C, H, W)`` to ``(C, 1, 1)``."""

    output: str
    input: str


class Add(msgspec.Struct, frozen=True):
    """``activation(left + right)``; ``right`` is ``None`` for an activation on its own."""

    output: str
    left: str
    right: str | None
    activation: str = "identity"


Node: TypeAlias = "Conv | Pool | Mean | Add"


class Graph(msgspec.Struct, frozen=True):
    """Nodes in execution order; ``shapes`` has every value, the input included."""

    input: str
    output: str
    nodes: tuple[Node, ...]
    shapes: dict[str, Shape]


def reads(node: Node) -> tuple[str, ...]:
    """The values that a node reads."""
    if isinstance(node, Conv):
        return (node.input,) if node.residual is None else (node.input, node.residual)
    if isinstance(node, Add):
        return (node.left,) if node.right is None else (node.left, node.right)
    return (node.input,)
