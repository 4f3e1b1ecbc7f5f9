"""Unstructured weights on CUDA cores: each output channel's non-zeros, in the order in which a warp walks them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compile.cuda.compressed import Buffers, compress, expand, places
from compile.cuda.problem import ConvProblem
from runtime.cuda import nvrtc
from runtime.cuda.csr import FIELDS, csr, source

MOST = {"float32": 0.25, "float16": 0.06, "bfloat16": 0.06}
"""Density past which it is not tried: shared memory feeds a quarter of the FMA rate, tensor cores are dense."""

_LANES = 32
_ENTRY = 4  # non-zeros
_PACK_BYTES = 16  # of input channels that are brought to shared memory together
_SHARED_BYTES = 227 * 1024  # of a multiprocessor, sm_90; a block's own kilobyte is taken off in `_blocks`
_REGISTERS = 65536
_MAX_CONFIGS = 12


class CsrConfig(msgspec.Struct, frozen=True):
    """How the kernel is cut.

    A block takes ``pieces`` pieces of output of ``steps`` rows of lanes each, and ``warps`` times ``outputs`` output
    channels; ``chunk`` packs of input channels are in shared memory at a time, ``pair`` pixels to a word.
    """

    pair: int
    pieces: int
    steps: int
    outputs: int
    warps: int
    chunk: int


class Arranged(msgspec.Struct, frozen=True):
    """What the kernel reads; as ``runtime.cuda.csr.csr`` takes it."""

    entries: NDArray[np.int32]
    starts: NDArray[np.int32]
    packs: NDArray[np.int32]


def reject(weight: Tensor, problem: ConvProblem) -> str | None:
    """Groups, an activation that is not fused, or so many weights that dense is faster."""
    if problem.groups != 1:
        return f"{problem.groups} groups: the kernel brings all input channels to shared memory"
    if problem.activation not in ("identity", "relu"):
        return f"activation {problem.activation} is not fused, identity and relu are"
    density = int(torch.count_nonzero(weight)) / weight.numel()
    limit = MOST[problem.dtype]
    if density > limit:
        return f"density {density:.3f} is past {limit}, the most that is tried: dense {problem.dtype} is faster"
    return None if configs(problem) else "a row of the picture with its halo does not fit shared memory"


def pack(weight: Tensor) -> Buffers:
    """``values``, ``columns`` and ``rows``: see ``compress``."""
    return compress(weight)


def unpack(buffers: Buffers, shape: Sequence[int]) -> Tensor:
    """The exact weight that was packed."""
    return expand(buffers, shape)


def macs_usable(weight: Tensor, problem: ConvProblem) -> int:
    """One multiply-add per non-zero and pixel."""
    return int(torch.count_nonzero(weight)) * problem.rows


def configs(problem: ConvProblem) -> tuple[CsrConfig, ...]:
    """Cuts that fit the registers and shared memory, best guess first."""
    found = []
    for config in _cuts(problem):
        for blocks in (1, 2, 3):
            chunk = _chunk(problem, config, blocks)
            if chunk:
                found.append(msgspec.structs.replace(config, chunk=chunk))
    return tuple(sorted(dict.fromkeys(found), key=lambda config: _cost(problem, config))[:_MAX_CONFIGS])


def _cuts(problem: ConvProblem) -> Iterator[CsrConfig]:
    pairs = (1,) if problem.dtype == "float32" else (1, 2)
    steps_tried = (1,) if problem.is_pointwise else (1, 2, 4, 7, 8, 14)
    for pair, pieces, steps, outputs, warps in product(pairs, (1, 2, 4, 8), steps_tried, (2, 4, 8, 16), (4, 8, 16)):
        sums = pieces * steps * outputs
        if pieces % pair or not 8 <= sums <= (112 if warps < 16 else 72) or pieces * steps > 16:
            continue
        if (warps > 4 and warps * outputs >= 2 * problem.outputs) or outputs > problem.outputs:
            continue
        yield CsrConfig(pair, pieces, steps, outputs, warps, 8)


def build(weight: Tensor, problem: ConvProblem, config: CsrConfig, arch: str) -> None:
    """NVRTC for the geometry of this layer."""
    live = weight.transpose(0, 1).flatten(1).any(dim=1).nonzero()  # as `live_packs`, without packing for each cut
    packs = len(torch.unique(live // _pack(problem)))
    nvrtc.cubin(source(geometry(problem, config, packs)), arch)


def module(buffers: Buffers, bias: Tensor, problem: ConvProblem, config: CsrConfig) -> nn.Module:
    """See ``compile.cuda.format.Format``."""
    packs = live_packs(buffers, problem)
    sizes = geometry(problem, config, len(packs))
    return CsrConv(arrange(buffers, problem, sizes, packs), bias, problem.output_shape, sizes)


class CsrConv(nn.Module):
    """One call of ``st3::csr``."""

    entries: Tensor
    starts: Tensor
    packs: Tensor
    bias: Tensor

    def __init__(
        self, arranged: Arranged, bias: Tensor, shape: tuple[int, int, int, int], sizes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.shape, self.geometry = list(shape), list(sizes)
        for name in ("entries", "starts", "packs"):
            self.register_buffer(name, torch.from_numpy(getattr(arranged, name)))
        self.register_buffer("bias", bias.float())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(conv(x) + bias + residual)``."""
        y: Tensor = csr(x, self.entries, self.starts, self.packs, self.bias, residual, self.shape, self.geometry)
        return y


def live_packs(buffers: Buffers, problem: ConvProblem) -> NDArray[np.int64]:
    """Packs of input channels that any output reads, ascending."""
    return np.unique(places(buffers, problem.kernel)[1] // _pack(problem))


def _pack(problem: ConvProblem) -> int:
    """Channels."""
    return _PACK_BYTES // problem.element_bytes


def geometry(problem: ConvProblem, config: CsrConfig, packs: int) -> tuple[int, ...]:
    """The values of ``FIELDS``."""
    flat = problem.is_pointwise  # one long row: a lane for each pixel, wherever pictures end
    batch, height, width = (1, 1, problem.rows) if flat else (problem.batch, problem.height, problem.width)
    out_height, out_width = (1, problem.rows) if flat else problem.output_size
    (kernel_r, kernel_s), (stride_h, stride_w), (dil_h, dil_w) = problem.kernel, problem.stride, problem.dilation
    columns, rows, lane_pieces = _lanes(batch, out_height, out_width, config.steps)
    tile_rows = rows * config.steps
    row_step = stride_h if kernel_r == 1 else 1  # a 1x1 kernel skips the rows between
    phases = stride_w if kernel_s > 1 else 1  # columns of one phase are neighbours, so that lanes are in every bank
    reach = (columns - 1) * stride_w + (kernel_s - 1) * dil_w + 1 if kernel_s > 1 else columns
    if phases == 1 and kernel_s > 1 and columns == out_width:
        reach -= problem.padding[1]  # the next row begins with as many zeros
    phase_pitch = max(1, -(-reach // phases))
    lane_row_step = stride_h // row_step
    stored_rows = (tile_rows - 1) * lane_row_step + (kernel_r - 1) * dil_h + 1
    pitch = _pitch(phases * phase_pitch, rows, columns, lane_row_step, lane_pieces, stored_rows)
    if phases == 1:
        phase_pitch = pitch  # where the row is longer than it need be, it goes on with what comes next
    element_bits = 8 * problem.element_bytes
    slots = config.pieces // config.pair * lane_pieces * stored_rows * pitch + problem.padding[1]
    slot_pitch = config.chunk * _PACK_BYTES // 4 * config.pair | 1
    down, across = -(-out_height // tile_rows), -(-out_width // columns)
    vector = math.gcd(math.gcd(config.outputs, problem.outputs), 16 // problem.element_bytes)
    values = {
        "ELEMENT_BITS": element_bits, "BFLOAT": int(problem.dtype == "bfloat16"), "BATCH": batch,
        "CHANNELS": problem.channels, "HEIGHT": height, "WIDTH": width, "OUTPUTS": problem.outputs,
        "OUT_HEIGHT": out_height, "OUT_WIDTH": out_width, "STRIDE_H": stride_h, "STRIDE_W": stride_w,
        "PAD_H": problem.padding[0], "PAD_W": problem.padding[1], "ROW_STEP": row_step,
        "LANE_ROW_STEP": lane_row_step, "PHASE_PITCH": phase_pitch, "PITCH": pitch, "STORED_ROWS": stored_rows,
        "SLOTS": slots, "SLOT_PITCH": slot_pitch, "PAIR": config.pair, "TILE_ROWS": tile_rows,
        "LANE_PIECES": lane_pieces, "LANE_ROWS": rows, "LANE_COLUMNS": columns, "STEPS": config.steps,
        "Q": config.pieces, "PIECES": batch * down * across, "TILES_DOWN": down, "TILES_ACROSS": across,
        "PACKS": packs, "CHUNK": config.chunk, "CHUNKS": -(-packs // config.chunk), "WARPS": config.warps,
        "G": config.outputs, "VECTOR": vector, "BLOCKS_PER_SM": 1, "RESIDUAL": int(problem.residual),
        "RELU": int(problem.activation == "relu"),
    }  # fmt: skip
    values["BLOCKS_PER_SM"] = _blocks_per_sm(values)
    return tuple(values[name] for name in FIELDS)


def arrange(buffers: Buffers, problem: ConvProblem, sizes: tuple[int, ...], packs: NDArray[np.int64]) -> Arranged:
    """Put the non-zeros in the order in which the warps walk them, four to an entry."""
    size = dict(zip(FIELDS, sizes, strict=True))
    row, channel, tap_r, tap_s = places(buffers, problem.kernel)
    width = _pack(problem)
    pack = np.searchsorted(packs, channel // width)
    chunk, local = pack // size["CHUNK"], pack % size["CHUNK"] * width + channel % width
    column = tap_s * problem.dilation[1]
    phases = size["STRIDE_W"] if problem.kernel[1] > 1 else 1
    slot = tap_r * problem.dilation[0] * size["PITCH"]
    slot += column % phases * size["PHASE_PITCH"] + column // phases
    offsets = 4 * slot * size["SLOT_PITCH"] + local * problem.element_bytes * size["PAIR"]

    warps, group, chunks = size["WARPS"], size["G"], size["CHUNKS"]
    blocks = -(-problem.outputs // (warps * group))
    block, in_block = row // (warps * group), row % (warps * group)
    walk = ((block * chunks + chunk) * warps + in_block // group) * group + in_block % group
    counts = np.bincount(walk, minlength=blocks * chunks * warps * group)
    starts = np.concatenate([[0], np.cumsum(-(-counts // _ENTRY))])
    order = np.argsort(walk, kind="stable")
    firsts = np.cumsum(counts) - counts
    slots = starts[walk[order]] * _ENTRY + np.arange(len(order)) - firsts[walk[order]]
    entries = np.zeros((starts[-1] + 1, 2, _ENTRY), np.int32)
    entries[slots // _ENTRY, 0, slots % _ENTRY] = offsets[order]
    values = buffers["values"].float().numpy()
    entries[slots // _ENTRY, 1, slots % _ENTRY] = values[order].view(np.int32)
    return Arranged(entries.reshape(-1, 2 * _ENTRY), starts.astype(np.int32), packs.astype(np.int32))


def _lanes(batch: int, height: int, width: int, steps: int) -> tuple[int, int, int]:
    """Columns, rows and pieces of lanes: those that leave the fewest lanes and steps without a pixel."""
    best, found = 0.0, (1, 1, 1)
    for columns in range(1, min(width, _LANES) + 1):
        most = min(_LANES // columns, height)
        for rows in {most, 1}:
            tiles = batch * -(-width // columns) * -(-height // (rows * steps))
            small = columns == width and rows * steps >= height  # a whole picture: others beside it bring no new halo
            for pieces in {1, _LANES // (columns * rows) if small else 1}:
                useful = batch * height * width / (-(-tiles // pieces) * steps * _LANES)
                if (useful, -pieces, columns, rows) > (best, -found[2], found[0], found[1]):
                    best, found = useful, (columns, rows, pieces)
    return found


def _pitch(least: int, rows: int, columns: int, row_step: int, pieces: int, stored_rows: int) -> int:
    """The shortest row at which no two lanes read one bank of shared memory, or the shortest of all."""
    for pitch in range(least, least + _LANES):
        banks = {
            (piece * stored_rows * pitch + row * row_step * pitch + column) % _LANES
            for piece in range(pieces)
            for row in range(rows)
            for column in range(columns)
        }
        if len(banks) == pieces * rows * columns:
            return pitch
    return least


def _chunk(problem: ConvProblem, config: CsrConfig, blocks: int) -> int:
    """Packs that fit so many blocks of a multiprocessor, in even parts; 0 if the fewest are too many."""
    packs = -(-problem.channels // _pack(problem))
    unit = 8 // config.pair  # neighbours that a warp loads
    slots = dict(zip(FIELDS, geometry(problem, config, packs), strict=True))["SLOTS"]
    fitting = ((_SHARED_BYTES // blocks - 1024) // slots - 4) // (_PACK_BYTES * config.pair * unit)
    units = -(-packs // unit)
    if fitting < 1:
        return 0
    return unit * -(-units // -(-units // fitting))


def _blocks_per_sm(size: dict[str, int]) -> int:
    """Blocks that shared memory and registers let be on a multiprocessor: what the compiler may assume."""
    shared = 4 * size["SLOTS"] * size["SLOT_PITCH"] + 1024
    threads = _LANES * size["WARPS"]
    registers = size["Q"] * size["STEPS"] * size["G"] + size["G"] + 44
    return max(1, min(_SHARED_BYTES // shared, _REGISTERS // (threads * registers), 2048 // threads))


def _cost(problem: ConvProblem, config: CsrConfig) -> float:
    """A guess at the time in cycles of a multiprocessor, for the densities that are typical of the type."""
    packs = -(-problem.channels // _pack(problem))
    size = dict(zip(FIELDS, geometry(problem, config, packs), strict=True))
    density, clocks_of_word = (0.1, 1.0) if problem.dtype == "float32" else (0.01, 1.0 if config.pair == 1 else 1.25)
    pixels = -(-size["PIECES"] // (size["Q"] * size["LANE_PIECES"]))
    blocks = pixels * -(-problem.outputs // (size["WARPS"] * size["G"]))
    nonzeros = (density * problem.reduction + 1.5 * size["CHUNKS"]) * size["G"] * size["WARPS"]
    words = size["Q"] // config.pair * size["STEPS"]
    inner = nonzeros * (words * clocks_of_word + 1.0)
    load = packs * _PACK_BYTES * config.pair * size["SLOTS"] / 24 + 1200 * size["CHUNKS"]
    at_once = size["BLOCKS_PER_SM"]
    waves = -(-blocks // (132 * at_once)) * at_once
    hidden = min(1.0, at_once * size["WARPS"] * words / 64)
    return float(waves * (inner / hidden + load / min(2, at_once)))
