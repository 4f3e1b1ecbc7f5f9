"""Tiles, chunks and tasks of a dense convolution, ranked by a cost model.

The kernel reads the inputs of a tile once for a block of outputs and the weights of a block once for a tile, so that
with some 28 sums nearly every cycle does two multiply-adds. What costs beside that: sums that wait for themselves,
remainders, interrupted sums, and vectors of inputs that come from beyond the first cache.
"""

from __future__ import annotations

import itertools

import msgspec

from compile.format import Cut
from compile.graph import Conv
from compile.native.isa import Isa, cache_bytes
from compile.native.kernel_table import Kernel
from compile.native.plan import Plan
from compile.native.steps import Compute

_FMA_LATENCY = 4.0
_TILE_CYCLES = 30.0
_SUM_CYCLES, _FAR_SUM_CYCLES = 1.5, 4.0  # per vector written and read again, in and beyond the L2 cache
_L2_CYCLES, _FAR_CYCLES = 0.3, 3.0  # per vector of inputs, from the L2 cache and from beyond
_NEAR = 0.4  # of a cache that one chunk's inputs may fill
_FAR_BYTES_PER_CYCLE = 4.0  # weights from beyond the L2 cache
_TASK_BYTES = 384 * 1024  # input and output of a task, to stay in the L2 cache with the weights
_LARGE_WEIGHT = 768 * 1024
_GROUPS = 16


class DenseTile(msgspec.Struct, frozen=True):
    """A tile of ``rows`` x ``columns`` positions, the cut (its block counts channels) and ``cycles``."""

    rows: int
    columns: int
    cut: Cut
    cycles: float


def dense_tiles(plan: Plan, step: Compute, isa: Isa, kernel: Kernel) -> list[DenseTile]:
    """Every way to run the convolution, cheapest first."""
    conv = step.node
    assert isinstance(conv, Conv)
    geometry = plan.tensors[conv.output].geometry
    chunks = [(chunk, _distant_cycles(plan, step, isa, chunk)) for chunk in _chunks(conv)]
    near = plan.tensors[conv.output].size <= cache_bytes(2, isa)
    widths = sorted({-(-geometry.columns // parts) for parts in range(1, geometry.columns + 1)})
    found = []
    for rows, columns, block in itertools.product(range(1, min(geometry.rows, 14) + 1), widths, kernel.blocks):
        if kernel.registers(rows * columns, block) <= isa.registers:
            shapes = _shapes(geometry.rows, geometry.columns, rows, columns)
            found += [
                DenseTile(rows, columns, *_cost(plan, conv, shapes, block, chunk, distant, near))
                for chunk, distant in chunks
            ]
    return sorted(found, key=lambda option: option.cycles)


def task_rows(plan: Plan, step: Compute, tile_rows: int) -> int:
    """Output rows of one task: all of them where weights are large, since each task reads all weights anew."""
    conv = step.node
    assert isinstance(conv, Conv)
    if conv.output in plan.paired():
        return tile_rows
    source, target = plan.tensors[step.inputs[0]], plan.tensors[conv.output]
    rows = target.geometry.rows
    if conv.weight.nbytes < _LARGE_WEIGHT:
        per_row = source.row_stride * conv.stride[0] + target.row_stride
        rows = min(rows, max(1, _TASK_BYTES // per_row))
    tasks = -(-target.geometry.rows // rows)
    even = -(-target.geometry.rows // tasks)
    return -(-even // tile_rows) * tile_rows


def _chunks(conv: Conv) -> list[int]:
    """Numbers of input channels to try, of chunks as even as they can be."""
    channels = conv.weight.shape[1]
    return sorted({-(-channels // -(-channels // size)) for size in (16, 32, 64, 128, 256, 512, 768, 1024, channels)})


def _cost(
    plan: Plan,
    conv: Conv,
    shapes: list[tuple[int, int, int]],
    block: int,
    chunk: int,
    distant: float,
    near: bool,
) -> tuple[Cut, float]:
    """The cut and its cycles.

    Args:
        plan: where the result lies.
        conv: the convolution.
        shapes: of the tiles.
        block: vectors of outputs.
        chunk: input channels.
        distant: cycles per input and position beside those of the kernel itself.
        near: whether interrupted sums wait in the L2 cache.
    """
    target = plan.tensors[conv.output]
    inputs, blocks = conv.weight[0].size, -(-target.channels // block)
    chunks = -(-conv.weight.shape[1] // chunk)
    sums = _SUM_CYCLES if near else _FAR_SUM_CYCLES
    cycles = 0.0
    for height, width, count in shapes:
        positions = height * width
        loads = (positions + block + 1) / 2
        issued = (positions * (block + 1) + block + 4) / 6
        per_input = max(positions * block / 2, loads, issued, _FMA_LATENCY) + positions * distant
        cycles += count * (inputs * per_input + chunks * (_TILE_CYCLES + positions * block * sums))
    lanes = target.geometry.lane_channels
    weight_cycles = inputs * block * target.geometry.item * lanes / _FAR_BYTES_PER_CYCLE
    return Cut(chunk, max(1, min(_GROUPS, blocks)), block * lanes), blocks * max(cycles, weight_cycles)


def _distant_cycles(plan: Plan, step: Compute, isa: Isa, chunk: int) -> float:
    """Cycles per input and position for inputs that the first cache does not hold until the next block reads them."""
    conv, source = step.node, plan.tensors[step.inputs[0]]
    assert isinstance(conv, Conv)
    geometry = plan.tensors[conv.output].geometry
    share = chunk / conv.weight.shape[1] * task_rows(plan, step, 1) / geometry.rows
    footprint = source.size * share / _NEAR
    if footprint <= cache_bytes(1, isa):
        return 0.0
    return (_L2_CYCLES if footprint <= cache_bytes(2, isa) else _FAR_CYCLES) / geometry.lane_channels


def _shapes(height: int, width: int, rows: int, columns: int) -> list[tuple[int, int, int]]:
    """``(rows, columns, count)`` of the tiles that cover a map, remainders included."""
    down = [(rows, height // rows), (height % rows, 1)]
    across = [(columns, width // columns), (width % columns, 1)]
    return [(h, w, i * j) for h, i in down for w, j in across if h and w and i and j]
