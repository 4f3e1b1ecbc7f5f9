"""Torch tensors as numbers of elements: what views cannot say, and what of the graph makes it.

A tensor that moves data about (windows cut out of a map, heads, a class token, rolled and padded maps) is kept as the
number of the element that lies at each of its places. Any operator that moves data is then that operator of torch's,
on the numbers. Only what computes with the tensor asks what it is: a view of a value, or pixels of values in other
places, which the graph's ``Move`` puts there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compile.aten.views import Dims, View, axes, axis
from compile.graph import Shape

Ids = NDArray[np.int64]
_MOST_RUNS = 16
"""Parts along the channels that come from different places, such as the four of a patch merging."""


class Elements(msgspec.Struct, frozen=True):
    """``ids`` has a torch tensor's shape: 0 for nothing, else the number of an element of a value (see ``Source``).

    The tensor is ``factor`` times the elements, plus ``shift``. Where ``lines`` is given, elements with one number
    in it were divided by their common length, or by ``epsilon``. ``memory`` is as in ``View``.
    """

    ids: Tensor
    memory: int
    shift: Tensor | None = None
    factor: float = 1.0
    lines: Tensor | None = None
    epsilon: float | None = None


class Scores(msgspec.Struct, frozen=True):
    """A torch tensor ``(..., queries, keys)`` on its way from queries and keys to the weights of attention.

    ``scale`` has the leading dimensions, ``bias`` all of them; ``weights`` says that softmax was taken.
    """

    query: Elements
    key: Elements
    scale: Tensor
    bias: Tensor | None = None
    weights: bool = False


class Lengths(msgspec.Struct, frozen=True):
    """The lengths of vectors, at least ``epsilon``.

    ``vectors`` ``(n, D)`` are the numbers of the elements of each; ``lines`` has the shape of the lengths, which may
    have been moved about, and says which vector's each of them is.
    """

    vectors: Tensor
    lines: Tensor
    epsilon: float = 0.0


class Source(msgspec.Struct, frozen=True):
    """A value whose elements ``(B, C, H, W)`` have the numbers from ``first`` on."""

    name: str
    first: int
    shape: Shape

    @property
    def size(self) -> int:
        """Elements of one picture."""
        return math.prod(self.shape)


class Pictured(msgspec.Struct, frozen=True):
    """One picture of a tensor: elements numbered from 0 in ``sources[which]``, -1 for nothing.

    The torch dimension ``axis`` runs over the batch too, each picture's ``inner`` places together; arrays have the
    tensor's dimensions.
    """

    element: Ids
    which: Ids
    sources: tuple[Source, ...]
    axis: int
    inner: int
    batch: int

    def coordinates(self) -> tuple[Ids, Ids]:
        """Channel and pixel of each element, -1 for nothing."""
        plane = np.array([source.shape[1] * source.shape[2] for source in self.sources])[self.which]
        return np.where(self.element < 0, -1, self.element // plane), np.where(
            self.element < 0, -1, self.element % plane
        )

    def whole(self) -> bool:
        """Whether the first dimension is the batch, and each picture all elements of one value in their order."""
        if len(self.sources) != 1 or (self.axis, self.inner, len(self.element)) != (0, 1, 1):
            return False
        return bool(np.array_equal(self.element.reshape(-1), np.arange(self.sources[0].size)))

    def of_picture(self, values: Tensor) -> NDArray[np.float32] | None:
        """One picture of a tensor of the same shape; ``None`` if pictures have different numbers."""
        apart = _apart(values, self.axis, self.inner, self.batch)
        return apart[0].numpy() if bool((apart == apart[:1]).all()) else None

    def of_batch(self, values: Tensor) -> Tensor:
        """``(B, ...)`` of pictures as a tensor that has them where this one has."""
        shape = values.shape[1:]
        split = values.reshape(len(values), *shape[: self.axis], -1, self.inner, *shape[self.axis + 1 :])
        return split.movedim(0, self.axis + 1).flatten(self.axis, self.axis + 2)

    def with_batch(self, dims: Sequence[tuple[int, ...]], shape: Shape) -> Dims | None:
        """Dimensions of one picture and the batch among them; ``None`` if it lies inside of an axis."""
        within: list[int] = []
        outer, places = list(dims[self.axis]), 1
        while outer and places < self.inner:
            within.insert(0, outer.pop())
            places *= shape[within[0] - 1]
        if places != self.inner:
            return None
        return (*dims[: self.axis], (*outer, 0, *within), *dims[self.axis + 1 :])


def element_ids(source: Source, view: View, batch: int, size: Sequence[int]) -> Tensor:
    """The numbers of a view's elements, in the torch shape ``size``."""
    whole = (batch, *source.shape)
    ids = torch.arange(source.first, source.first + batch * source.size).reshape(whole)
    order = axes(view.dims)
    left = [number for number in range(4) if number not in order]
    return ids.permute(*order, *left).reshape(list(size))


def picture(ids: Tensor, sources: Sequence[Source], batch: int) -> Pictured | None:
    """One picture of a tensor, if each picture of the batch has its own elements and all the same of them."""
    starts = np.array([source.first for source in sources])
    for dimension, length in enumerate(ids.shape):
        for inner in dict.fromkeys((length // batch, 1)) if length % batch == 0 else ():
            apart = _apart(ids, dimension, inner, batch).numpy()
            index = np.searchsorted(starts, apart[0], side="right") - 1
            used, which = np.unique(np.maximum(index, 0), return_inverse=True)
            chosen = [sources[number] for number in used]
            which = which.reshape(index.shape)
            first = np.array([source.first for source in chosen])[which]
            size = np.array([source.size for source in chosen])[which]
            nothing = apart[0] == 0
            inside = bool((nothing | (apart[0] < first + size)).all()) and not nothing.all()
            if inside and all(
                np.array_equal(apart[number], np.where(nothing, 0, apart[0] + number * size))
                for number in range(1, batch)
            ):
                element = np.where(nothing, -1, apart[0] - first)
                return Pictured(element, which, tuple(chosen), dimension, inner, batch)
    return None


def _apart(values: Tensor, dimension: int, inner: int, batch: int) -> Tensor:
    """``(B, ...)``: pictures apart, of which a dimension has ``inner`` places together."""
    shape = values.shape
    split = values.reshape(*shape[:dimension], -1, batch, inner, *shape[dimension + 1 :])
    return split.movedim(dimension + 1, 0).flatten(dimension + 1, dimension + 2)


def find_view(found: Pictured) -> tuple[str, Dims] | None:
    """The value of which a tensor is a view, each dimension over whole axes of it."""
    if len(found.sources) != 1 or found.element.size != found.sources[0].size or (found.element < 0).any():
        return None
    shape = found.sources[0].shape
    whole = np.arange(found.sources[0].size).reshape(shape)
    dims: list[tuple[int, ...]] = []
    for dimension in range(found.element.ndim):
        line = np.moveaxis(found.element, dimension, 0).reshape(found.element.shape[dimension], -1)[:, 0]
        steps = {
            number + 1: int(np.count_nonzero(np.diff(place)))
            for number, place in enumerate(np.unravel_index(line, shape))
        }
        dims.append(tuple(sorted((number for number, count in steps.items() if count), key=steps.__getitem__)))
    order = [number - 1 for dim in dims for number in dim]
    left = [number for number in range(3) if number not in order]
    if len(set(order)) != len(order) or any(shape[number] != 1 for number in left):
        return None
    if not np.array_equal(whole.transpose(*order, *left).reshape(found.element.shape), found.element):
        return None
    shown = found.with_batch(dims, shape)
    return None if shown is None else (found.sources[0].name, shown)


class Run(msgspec.Struct, frozen=True):
    """``count`` channels of a value from ``first`` on, each with the pixels ``positions`` (-1 for nothing)."""

    source: Source
    first: int
    count: int
    positions: Ids


class Moved(msgspec.Struct, frozen=True):
    """A new value of ``shape``, its channels ``runs`` one after another, and how the torch tensor shows it.

    ``order`` brings one picture of the tensor to ``(C, H, W)``, by a transposition and a reshape.
    """

    runs: tuple[Run, ...]
    shape: Shape
    dims: Dims
    order: tuple[int, ...]


def find_moves(found: Pictured) -> Moved | None:
    """How pixels of values make a tensor that has channels in one dimension and pixels in the others."""
    channel, pixel = found.coordinates()
    count = found.element.ndim
    for dimension in (count - 1, *range(count - 1)):
        lines = [
            np.moveaxis(array, dimension, 0).reshape(array.shape[dimension], -1)
            for array in (channel, pixel, found.which)
        ]
        runs = _runs(lines[0], lines[1], lines[2], found.sources)
        if runs is None:
            continue
        rest = [number for number in range(count) if number != dimension]
        lengths = [found.element.shape[number] for number in rest]
        long = [number for number, length in zip(rest, lengths, strict=True) if length > 1]
        width = found.element.shape[long[-1]] if long else 1
        shape = (found.element.shape[dimension], math.prod(lengths) // width, width)
        if len(long) > 2:
            continue  # no view of a value has its rows in two dimensions
        dims: list[tuple[int, ...]] = [()] * count
        dims[dimension] = axis(shape, 1)
        for number, place in zip(long, (2, 3)[2 - len(long) :], strict=True):
            dims[number] = (place,)
        shown = found.with_batch(dims, shape)
        if shown is not None:
            return Moved(runs, shape, shown, (dimension, *rest))
    return None


def _runs(channel: Ids, pixel: Ids, which: Ids, sources: tuple[Source, ...]) -> tuple[Run, ...] | None:
    """Arrays are ``(C, pixels)``; ``None`` if a line is not of one channel, or there are too many runs."""
    runs: list[Run] = []
    best = channel.argmax(1)
    top = channel[np.arange(len(channel)), best]
    if (top < 0).any() or ((channel != top[:, None]) & (channel >= 0)).any():
        return None
    source = which[np.arange(len(channel)), best]
    if ((which != source[:, None]) & (channel >= 0)).any():
        return None
    start = 0
    for line in range(1, len(channel) + 1):
        if (
            line < len(channel)
            and source[line] == source[start]
            and top[line] == top[start] + line - start
            and np.array_equal(pixel[line], pixel[start])
        ):
            continue
        runs.append(Run(sources[source[start]], int(top[start]), line - start, pixel[start]))
        start = line
        if len(runs) > _MOST_RUNS:
            return None
    return tuple(runs)
