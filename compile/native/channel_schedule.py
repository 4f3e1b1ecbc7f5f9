"""Tiles, chunks and tasks of a dense convolution with channels in the lanes, ranked by a cost model.

The kernel reads a weight vector per output vector and broadcasts a float per pixel, so that with 28 sums nearly every
cycle does two multiply-adds. What costs beside that: sums that wait for themselves, remainders, and interrupted sums.
"""

from __future__ import annotations

import itertools

import msgspec

from compile.format import Cut
from compile.graph import Conv
from compile.native.isa import Isa
from compile.native.kernel_table import KERNELS
from compile.native.plan import Plan
from compile.native.steps import Compute

_FMA_LATENCY = 4.0
_TILE_CYCLES = 30.0
_FAR_BYTES_PER_CYCLE = 4.0  # weights from beyond the L2 cache
_TASK_BYTES = 384 * 1024  # input and output of a task, to stay in the L2 cache with the weights
_LARGE_WEIGHT = 768 * 1024
_GROUPS = 16


class ChannelTile(msgspec.Struct, frozen=True):
    """A tile of ``rows`` x ``columns`` pixels, the cut (its ``block`` counts channels), and the model's ``cycles``."""

    rows: int
    columns: int
    cut: Cut
    cycles: float


def channel_tiles(plan: Plan, step: Compute, isa: Isa) -> list[ChannelTile]:
    """Every way to run the convolution, cheapest first."""
    conv = step.node
    assert isinstance(conv, Conv)
    geometry = plan.tensors[conv.output].geometry
    kernel = KERNELS["dense_channels"]
    widths = sorted({-(-geometry.columns // parts) for parts in range(1, geometry.columns + 1)})
    found = [
        _cost(plan, conv, isa, (rows, columns, block), chunk)
        for rows, columns, block in itertools.product(range(1, min(geometry.rows, 14) + 1), widths, kernel.blocks)
        if kernel.registers(rows * columns, block) <= isa.registers
        for chunk in _chunks(conv)
    ]
    return sorted(found, key=lambda option: option.cycles)


def task_rows(plan: Plan, step: Compute, tile_rows: int) -> int:
    """Output rows of one task: all of them where weights are large, since each task reads all weights anew."""
    conv = step.node
    assert isinstance(conv, Conv)
    source, target = plan.tensors[step.inputs[0]], plan.tensors[conv.output]
    rows = target.geometry.rows
    if conv.weight.nbytes < _LARGE_WEIGHT:
        per_row = source.row_stride * conv.stride[0] + target.row_stride
        rows = min(rows, max(1, _TASK_BYTES // per_row))
    tasks = -(-target.geometry.rows // rows)
    even = -(-target.geometry.rows // tasks)
    return -(-even // tile_rows) * tile_rows


def _chunks(conv: Conv) -> list[int]:
    channels = conv.weight.shape[1]
    return sorted({min(size, channels) for size in (16, 32, 64, 128, 256, 512, channels)})


def _cost(plan: Plan, conv: Conv, isa: Isa, tile: tuple[int, int, int], chunk: int) -> ChannelTile:
    rows, columns, block = tile
    target = plan.tensors[conv.output]
    geometry = target.geometry
    inputs, blocks = conv.weight[0].size, -(-target.channels // block)
    chunks = -(-conv.weight.shape[1] // chunk)
    cycles = 0.0
    for height, width, count in _shapes(geometry.rows, geometry.columns, rows, columns):
        pixels = height * width
        loads = (pixels + block + 1) / 2
        per_input = max(pixels * block / 2, loads, (pixels * (block + 1) + block + 4) / 6, _FMA_LATENCY)
        cycles += count * (inputs * per_input + chunks * (_TILE_CYCLES + pixels * block * 1.5))
    weight_cycles = inputs * block * target.vector / _FAR_BYTES_PER_CYCLE
    return ChannelTile(
        rows,
        columns,
        Cut(chunk, max(1, min(_GROUPS, blocks)), block * isa.lanes),
        blocks * max(cycles, weight_cycles),
    )


def _shapes(height: int, width: int, rows: int, columns: int) -> list[tuple[int, int, int]]:
    """``(rows, columns, count)`` of the tiles that cover a map, remainders included."""
    down = [(rows, height // rows), (height % rows, 1)]
    across = [(columns, width // columns), (width % columns, 1)]
    return [(h, w, i * j) for h, i in down for w, j in across if h and w and i and j]
