"""Geometry of 2:4 convolutions: sizes, and how the Hopper kernel numbers pixels so that a filter tap is a shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

BLOCK_BYTES = 64 * 64 + 128 * 4
"""Bytes of a packed block: 64 output channels by 64 inputs of one tap, half of the values kept, and their metadata."""

_MOST_CORNER, _MOST_STEP = 127, 8  # what cuTensorMapEncodeIm2col takes


class Shape(NamedTuple):
    """What the weight's buffers do not say of a convolution."""

    outputs: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    padding_h: int
    padding_w: int
    dilation_h: int
    dilation_w: int


class Grid(NamedTuple):
    """How output pixels are numbered, and the taps in groups: see the head of ``kernels/semi_structured_sm90.cu``."""

    height: int
    width: int
    groups: tuple[tuple[int, int], ...]  # offset (y, x) of the first pixel that a group's patch holds
    first: tuple[int, ...]  # where its taps begin
    taps: tuple[int, ...]
    rows: tuple[int, ...]  # by how many rows of the patch a tap is shifted


class Box(NamedTuple):
    """Corners of the bounding box of one direction's positions, in pixels: from the first pixel, and from the last."""

    lower: int
    upper: int


def output_size(shape: Shape, height: int, width: int) -> tuple[int, int]:
    """Height and width of the result for an input of ``height`` times ``width`` pixels."""

    def length(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
        return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1

    return (
        length(height, shape.kernel_h, shape.stride_h, shape.padding_h, shape.dilation_h),
        length(width, shape.kernel_w, shape.stride_w, shape.padding_w, shape.dilation_w),
    )


def grid_of(shape: Shape, height: int, width: int, gather: bool) -> Grid:
    """The grid for an input of ``height`` times ``width`` pixels; with ``gather`` each tap has a patch of its own."""
    out_h, out_w = output_size(shape, height, width)
    if gather:
        return _gathering(shape, out_h, out_w)
    along_y = _phases(shape.kernel_h, shape.stride_h, shape.padding_h, shape.dilation_h)
    along_x = _phases(shape.kernel_w, shape.stride_w, shape.padding_w, shape.dilation_w)
    grid_h = _pitch(along_y, shape.stride_h, out_h, height)
    grid_w = _pitch(along_x, shape.stride_w, out_w, width)
    groups: list[tuple[int, int]] = []
    first, taps, rows = [0], [], []
    for start_y, in_y in along_y.items():
        for start_x, in_x in along_x.items():
            groups.append((start_y, start_x))
            taps += [r * shape.kernel_w + s for r, _ in in_y for s, _ in in_x]
            rows += [y * grid_w + x for _, y in in_y for _, x in in_x]
            first.append(len(taps))
    return Grid(grid_h, grid_w, tuple(groups), tuple(first), tuple(taps), tuple(rows))


def _gathering(shape: Shape, out_h: int, out_w: int) -> Grid:
    taps = tuple(range(shape.kernel_h * shape.kernel_w))
    places = (divmod(tap, shape.kernel_w) for tap in taps)
    groups = tuple((r * shape.dilation_h - shape.padding_h, s * shape.dilation_w - shape.padding_w) for r, s in places)
    return Grid(out_h, out_w, groups, (*taps, len(taps)), taps, (0,) * len(taps))


def _phases(kernel: int, stride: int, padding: int, dilation: int) -> dict[int, list[tuple[int, int]]]:
    """Taps by the remainder of their offset: {smallest offset: [(tap, how many strides further), ...]}."""
    by_rest: dict[int, list[int]] = {}
    for tap in range(kernel):
        by_rest.setdefault((tap * dilation - padding) % stride, []).append(tap)
    return {
        taps[0] * dilation - padding: [(tap, (tap - taps[0]) * dilation // stride) for tap in taps]
        for taps in by_rest.values()
    }


def _pitch(phases: dict[int, list[tuple[int, int]]], stride: int, out: int, length: int) -> int:
    """The smallest pitch at which what a tap reads past a line's end is zero, there and in the line that follows."""

    def fits(pitch: int) -> bool:
        return all(
            (at - pitch) * stride + start < 0 and at * stride + start >= length
            for start, taps in phases.items()
            for at in range(pitch, out + taps[-1][1])
        )

    return next(pitch for pitch in range(out, out + length + 2**16) if fits(pitch))


def boxes(shape: Shape, height: int, width: int, grid: Grid) -> tuple[Box, Box]:
    """The bounding box, down and across, that a tensor map of the input needs for the grid's positions."""
    return (
        _box(height, shape.stride_h, [y for y, _ in grid.groups], grid.height),
        _box(width, shape.stride_w, [x for _, x in grid.groups], grid.width),
    )


def _box(size: int, stride: int, starts: Sequence[int], length: int) -> Box:
    """For ``length`` positions, ``stride`` apart, from the smallest start on."""
    lower = min(starts)
    return Box(lower, lower + (length - 1) * stride - (size - 1))


def mappable(shape: Shape, height: int, width: int, grid: Grid) -> bool:
    """Whether a tensor map can describe the patches: corners in 8 bits, steps of at most 8."""
    down, across = boxes(shape, height, width, grid)
    return max(map(abs, (*down, *across))) <= _MOST_CORNER and max(shape.stride_h, shape.stride_w) <= _MOST_STEP
