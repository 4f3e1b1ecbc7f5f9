"""How a convolution may run: kernel, tile of registers, channel chunk, channel groups, ranked by a cost model.

The model counts cycles of one core that does two vector multiply-adds and two loads a cycle from L1 and fewer from
L2. It ranks alternatives; it does not predict times. The tuner measures the best of them.
"""

from __future__ import annotations

import itertools

import msgspec
import numpy as np

from compile.format import Cut
from compile.graph import Conv
from compile.native import channel_layout
from compile.native.dense_schedule import dense_tiles
from compile.native.isa import Isa, cache_bytes
from compile.native.kernel_table import KERNELS, Kernel
from compile.native.plan import Plan
from compile.native.steps import Compute


class Schedule(msgspec.Struct, frozen=True):
    """A tile of ``tile_rows`` x ``tile_columns`` vectors in registers, the cut, and the model's ``cycles``."""

    format: str
    reason: str
    tile_rows: int
    tile_columns: int
    cut: Cut
    cycles: float

    @property
    def code(self) -> tuple[str, int, int, int]:
        """What the generated code depends on; the rest of the cut is in the weight file alone."""
        return self.format, self.tile_rows, self.tile_columns, self.cut.block


_FAR_FMA_CYCLES = 2.3
_L2_FMA_CYCLES = 1.15
_L1_FMA_CYCLES = 0.55
_FMA_CYCLES = 0.5
_ROW_CYCLES = 10.0
_FAR_SUM_CYCLES = 2.0
_GROUPS = 8
_L1_SHARE, _L2_SHARE = 0.9, 0.4
_SHARED = 0.6  # of a weight's loads that its pair saves, times the density
_PAIR_CYCLES = 5.0
_PAIR_GROUP = 64  # output channels among which pairs are sought


def candidates(plan: Plan, step: Compute, isa: Isa, l1: int) -> list[Schedule]:
    """Every schedule of a convolution, the model's cheapest first; ``l1`` is the cache's size in bytes."""
    conv = step.node
    assert isinstance(conv, Conv)
    kernels, reason = _usable(plan, conv, isa)
    caches = (l1, cache_bytes(2, isa))
    found: list[Schedule] = []
    for kernel in kernels:
        if kernel.dense:
            tiles = dense_tiles(plan, step, isa, kernel)
            found += [Schedule(kernel.name, reason, t.rows, t.columns, t.cut, t.cycles) for t in tiles]
        else:
            kept = int(np.count_nonzero(conv.weight))
            found += [
                _cost(plan, step, caches, kernel.name, reason, kept, tile, chunk)
                for tile in _tiles(plan, step, isa, kernel)
                for chunk in _chunks(conv)
            ]
    return sorted(found, key=lambda option: option.cycles)


def _usable(plan: Plan, conv: Conv, isa: Isa) -> tuple[list[Kernel], str]:
    """The kernels that a convolution is offered to, and what is said of it in the layer table."""
    reason = f"density {np.count_nonzero(conv.weight) / conv.weight.size:.3f}"
    if plan.tensors[conv.output].geometry.lane_channels > 1:
        return [KERNELS["dense_channels"]], reason
    kernels = {name: kernel for name, kernel in KERNELS.items() if not kernel.channel_lanes}
    reasons = {name: kernel.reject(conv) for name, kernel in kernels.items()}
    usable = [kernel for name, kernel in kernels.items() if reasons[name] is None]
    if not usable:  # the stream can run whatever there is
        return [KERNELS["offset_stream"]], f"{reason}, but the dense kernel takes no grouped convolution"
    if usable == [KERNELS["dense"]]:
        other = channel_layout.reject(plan.graph, isa)
        reason = reasons["offset_stream"] or reason
        reason += "" if other is None else f"; pixels in the lanes because of {other}"
    if reasons["block_stream"] is None:
        reason += ", in full blocks of 4 output channels"
    return usable, reason


def options(plan: Plan, isa: Isa, l1: int) -> dict[str, list[Schedule]]:
    """The candidates of each convolution, by output name; those of joined steps have tiles of one row."""
    paired = plan.paired()
    found = {}
    for name, step in plan.convolutions().items():
        ranked = candidates(plan, step, isa, l1)
        found[name] = [option for option in ranked if option.tile_rows == 1] if name in paired else ranked
    return found


def without_joins(plan: Plan, keep: frozenset[int] = frozenset()) -> Plan:
    """The same plan, in which only the steps in ``keep`` are joined; buffers may stay where they are."""
    return msgspec.structs.replace(plan, joined=plan.joined & keep)


def useful_joins(plan: Plan, threads: int, l2: int) -> frozenset[int]:
    """Joins that leave work for all threads to the end, of maps that the second-level cache does not hold."""
    crew = plan.crew_size(threads)
    found = set()
    for index in plan.joined:
        step = plan.steps[index]
        assert isinstance(step, Compute)
        read = plan.tensors[step.inputs[0]]
        rows = read.geometry.rows
        if (rows % crew == 0 or rows >= 8 * crew) and 2 * read.size > l2:
            found.add(index)
    return frozenset(found)


def _tiles(plan: Plan, step: Compute, isa: Isa, kernel: Kernel) -> list[tuple[int, int, int]]:
    """``(rows, columns, block)`` whose accumulators and operands fit the registers."""
    geometry = plan.tensors[step.node.output].geometry
    widths = sorted({-(-geometry.columns // parts) for parts in range(1, geometry.columns + 1)})
    found = [
        (rows, columns, block)
        for rows, columns, block in itertools.product(range(1, min(geometry.rows, 8) + 1), widths, kernel.blocks)
        if kernel.registers(rows * columns, block) <= isa.registers
    ]
    return found or [(1, 1, kernel.blocks[-1])]


def _chunks(conv: Conv) -> list[int]:
    """Numbers of input channels to try; a grouped convolution reads few per output and is not cut."""
    channels = conv.weight.shape[1] * conv.groups
    if conv.groups > 1:
        return [channels]
    return sorted({min(size, channels) for size in (8, 16, 32, 64, 96, 128, 256, channels)})


def _cost(
    plan: Plan,
    step: Compute,
    caches: tuple[int, int],
    form: str,
    reason: str,
    kept: int,
    tile: tuple[int, int, int],
    chunk: int,
) -> Schedule:
    conv, window = step.node, step.window
    assert isinstance(conv, Conv)
    assert window is not None
    source, geometry = plan.tensors[step.inputs[0]], plan.tensors[conv.output].geometry
    rows, columns, block = tile
    outputs, _, kernel_rows, kernel_columns = conv.weight.shape
    channels = conv.weight.shape[1] * conv.groups
    chunks = -(-channels // chunk)
    tiles = -(-geometry.rows // rows) * -(-geometry.columns // columns)
    vectors = rows * columns
    reach_rows = (rows - 1) * window.stride[0] + (kernel_rows - 1) * window.dilation[0] + 1
    reach_columns = (columns - 1) * window.stride[1] + (kernel_columns - 1) * window.dilation[1] + 1
    footprint = reach_rows * reach_columns * chunk * source.vector
    fma = _FAR_FMA_CYCLES
    if footprint <= _L2_SHARE * caches[1]:
        fma = _L1_FMA_CYCLES if footprint <= _L1_SHARE * caches[0] else _L2_FMA_CYCLES
    if form == "pair_stream":
        # what two channels have in common is loaded once, but fewer loops' ends are foreseen
        shared = max(_FMA_CYCLES, fma * (1 - _SHARED * kept / conv.weight.size))
        per_tap, per_row = _tap_and_row(form, vectors, 1, shared)
        per_row += _PAIR_CYCLES
        steps, group = float(kept), _PAIR_GROUP
    else:
        per_tap, per_row = _tap_and_row(form, vectors, block, fma)
        steps, group = kept / block, 8 * block
    # between chunks the sums of a large result wait beyond the second cache
    waiting = vectors * _FAR_SUM_CYCLES if plan.tensors[conv.output].size > caches[1] else 0.0
    sums = outputs * (chunks * per_row + (chunks - 1) * waiting)
    fill = chunks * footprint / 32 + (kept * 2 * geometry.item / block) / 16
    cycles = tiles * (steps * per_tap + sums + fill)
    groups = max(1, min(_GROUPS, outputs // group))
    return Schedule(form, reason, rows, columns, Cut(chunk, groups, block), cycles)


def _tap_and_row(form: str, vectors: int, block: int, fma: float) -> tuple[float, float]:
    """Cycles of a stored tap, and of one output channel's sums in a chunk; ``fma`` cycles with an operand in memory."""
    if form == "block_stream":
        # an operand is loaded once for four multiply-adds, so that it matters little where it comes from
        per_tap = max(vectors * block * _FMA_CYCLES, 2.0) + vectors * (fma - _FMA_CYCLES) + 0.25
        return per_tap, vectors * 1.2 + 0.5 * _ROW_CYCLES / block
    overhead = 0.8 if block == 1 else (vectors + block) * 0.3
    # a tile of few vectors still waits for its own sums
    return max(vectors * block * fma, 1.0) + overhead, vectors * 1.2 + _ROW_CYCLES
