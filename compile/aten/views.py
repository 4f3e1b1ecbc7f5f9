"""How a torch tensor shows a value of the graph: which axes of the value each of its dimensions runs over.

Flattening, permuting and adding dimensions of length 1 move no data in an inference engine: they are other views of the
same value. A view says, for each torch dimension, which of the value's axes (0 batch, 1 channel, 2 row, 3 column) it
runs over, the first one slowest. Axes of length 1 are nowhere, because they are everywhere; the batch is always
dimension 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from compile.graph import Shape

Dims = tuple[tuple[int, ...], ...]


class View(msgspec.Struct, frozen=True):
    """A torch tensor: the value's name, its dimensions, and a number that tensors sharing memory have in common."""

    name: str
    dims: Dims
    memory: int


def axis(shape: Shape, number: int) -> tuple[int, ...]:
    """The axis as it stands in a view: not at all if its length is 1."""
    return (number,) if number == 0 or shape[number - 1] != 1 else ()


def map_dims(shape: Shape) -> Dims:
    """The view ``(B, C, H, W)``."""
    return tuple(axis(shape, number) for number in range(4))


def vector_dims(shape: Shape) -> Dims:
    """The view ``(B, C)`` of a value without height and width."""
    return (0,), axis(shape, 1)


def axes(dims: Dims) -> tuple[int, ...]:
    """All axes of a view in memory order."""
    return tuple(number for dim in dims for number in dim)


def reshape(dims: Dims, shape: Shape, size: Sequence[int]) -> Dims | None:
    """The view of ``(B, *size)`` over the same axes in the same order; ``None`` where it cuts an axis or the batch."""
    order = axes(dims)
    if order[0] != 0:
        return None
    left = list(order[1:])
    found: list[tuple[int, ...]] = [(0,)]
    for length in size:
        taken: list[int] = []
        product = 1
        while product < length and left:
            taken.append(left.pop(0))
            product *= shape[taken[-1] - 1]
        if product != length:
            return None
        found.append(tuple(taken))
    return None if left else tuple(found)
