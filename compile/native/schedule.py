"""How a convolution runs: format, tile of registers, channel chunk, channel groups; chosen by a cost model.

The model counts cycles of one core that does two vector multiply-adds and two loads a cycle from L1 and fewer from
L2. It ranks alternatives; it does not predict times.
"""

from __future__ import annotations

import itertools

import msgspec
import numpy as np

from compile.format import Cut
from compile.formats import offset_stream
from compile.graph import Conv
from compile.native.geometry import Placement
from compile.native.isa import Isa
from compile.native.window import Window


class Schedule(msgspec.Struct, frozen=True):
    """A tile of ``tile_rows`` x ``tile_columns`` vectors in registers, the cut, and the model's ``cycles``."""

    format: str
    reason: str
    tile_rows: int
    tile_columns: int
    cut: Cut
    cycles: float


_L2_FMA_CYCLES = 1.25
_L1_FMA_CYCLES = 0.55
_ROW_CYCLES = 8.0
_GROUPS = 8


def schedule_conv(conv: Conv, window: Window, source: Placement, target: Placement, isa: Isa, l1: int) -> Schedule:
    """The cheapest schedule of a convolution from the tensor ``source`` into ``target``."""
    too_dense = offset_stream.reject(conv.weight)
    density = np.count_nonzero(conv.weight) / conv.weight.size
    if too_dense is None:
        form, reason = "offset_stream", f"density {density:.3f} is below break-even {offset_stream.BREAK_EVEN}"
    elif conv.groups > 1:
        form, reason = "offset_stream", f"{too_dense}, but the dense kernel takes no grouped convolution"
    else:
        form, reason = "dense", too_dense
    options = [
        _cost(conv, window, source, target, l1, form, reason, tile, chunk)
        for tile in _tiles(target, isa, form)
        for chunk in _chunks(conv)
    ]
    return min(options, key=lambda option: option.cycles)


def _tiles(target: Placement, isa: Isa, form: str) -> list[tuple[int, int, int]]:
    """``(rows, columns, block)`` whose accumulators and operands fit the registers."""
    geometry = target.geometry
    blocks = (4, 3, 2) if form == "dense" else (1,)
    widths = sorted({-(-geometry.columns // parts) for parts in range(1, geometry.columns + 1)})
    found = [
        (rows, columns, block)
        for rows, columns, block in itertools.product(range(1, min(geometry.rows, 8) + 1), widths, blocks)
        if block * rows * columns + (block + 1 if block > 1 else 2) <= isa.registers
    ]
    return found or [(1, 1, blocks[-1])]


def _chunks(conv: Conv) -> list[int]:
    """Numbers of input channels to try; a grouped convolution reads few per output and is not cut."""
    channels = conv.weight.shape[1] * conv.groups
    if conv.groups > 1:
        return [channels]
    return sorted({min(size, channels) for size in (8, 16, 32, 64, 128, 256, channels)})


def _cost(
    conv: Conv,
    window: Window,
    source: Placement,
    target: Placement,
    l1: int,
    form: str,
    reason: str,
    tile: tuple[int, int, int],
    chunk: int,
) -> Schedule:
    rows, columns, block = tile
    geometry = target.geometry
    outputs, _, kernel_rows, kernel_columns = conv.weight.shape
    nonzeros = conv.weight.size if form == "dense" else int(np.count_nonzero(conv.weight))
    channels = conv.weight.shape[1] * conv.groups
    chunks = -(-channels // chunk)
    blocks_down, tiles_across = -(-geometry.rows // rows), -(-geometry.columns // columns)
    tiles = blocks_down * tiles_across
    vectors = rows * columns
    reach_rows = (rows - 1) * window.stride[0] + (kernel_rows - 1) * window.dilation[0] + 1
    reach_columns = (columns - 1) * window.stride[1] + (kernel_columns - 1) * window.dilation[1] + 1
    footprint = reach_rows * reach_columns * chunk * source.vector
    fma = _L1_FMA_CYCLES if footprint <= 0.6 * l1 else _L2_FMA_CYCLES
    overhead = 0.8 if block == 1 else (vectors + block) * 0.3
    # a tile of few vectors still waits for its own sums
    per_tap = max(vectors * block * fma, 1.0) + overhead
    steps = nonzeros / block
    sums = outputs * chunks * (vectors * 1.2 + _ROW_CYCLES)
    fill = chunks * footprint / 32 + (nonzeros * 8 / block) / 48
    cycles = tiles * (steps * per_tap + sums + fill)
    groups = max(1, min(_GROUPS, outputs // (8 * block)))
    return Schedule(form, reason, rows, columns, Cut(chunk, groups, block), cycles)
