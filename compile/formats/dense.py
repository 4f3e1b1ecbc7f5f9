"""All weights: per chunk of input channels, blocks of output channels side by side, in the order they are read."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import Cut
from compile.native.taps import Taps


class Dense(msgspec.Struct, frozen=True):
    """``matrix`` is, per chunk, ``(N/block rounded up, inputs, block)``, one chunk after another.

    ``inputs`` are the chunk's channels at all taps, neighbours ``input_step`` bytes apart where they can be. ``runs``
    ``(?, 2)`` are byte offset and length of inputs that are; ``sections`` ``(chunks, 4)`` are a chunk's first run,
    number of runs, number of inputs, and the number of inputs before it. ``bounds`` are output channels.
    """

    cut: Cut
    bounds: NDArray[np.int32]
    matrix: NDArray[np.float32]
    runs: NDArray[np.int32]
    sections: NDArray[np.int32]

    @property
    def chunks(self) -> int:
        """Chunks of input channels."""
        return len(self.sections)


def reject(weight: NDArray[np.float32]) -> str | None:
    """Every weight can be kept dense."""
    del weight
    return None


def input_step(taps: Taps, shape: tuple[int, ...]) -> int:
    """Bytes from one input of a run to the next: along the channels, or a filter's row where that is longer."""
    if taps.lanes > 1:
        return taps.item
    return taps.column_stride if _by_row(taps, shape) else taps.channel_stride


def pack(weight: NDArray[np.float32], taps: Taps, cut: Cut) -> Dense:
    """Pack ``weight`` ``(N, C, R, S)`` of an ungrouped convolution; the last block is padded with zeros."""
    assert taps.groups == 1, "all output channels share one list of inputs"
    outputs = len(weight)
    blocks = -(-outputs // cut.block)
    padded = np.zeros((blocks * cut.block, weight[0].size), np.float32)
    padded[:outputs] = weight.reshape(outputs, -1)
    step = input_step(taps, weight.shape)
    parts: list[NDArray[np.float32]] = []
    runs: list[NDArray[np.int64]] = []
    sections: list[tuple[int, int, int, int]] = []
    for inputs in _chunks(weight.shape, taps, cut.chunk):
        offsets = taps.offsets(weight.shape)[0].reshape(-1)[inputs]
        parts.append(padded[:, inputs].reshape(blocks, cut.block, -1).transpose(0, 2, 1).reshape(-1))
        starts = np.concatenate(([0], np.flatnonzero(np.diff(offsets) != step) + 1, [len(offsets)]))
        before = sections[-1][2] + sections[-1][3] if sections else 0
        sections.append((sum(map(len, runs)), len(starts) - 1, len(inputs), before))
        runs.append(np.stack([offsets[starts[:-1]], np.diff(starts)], axis=1))
    groups = min(cut.groups, blocks)
    bounds = np.minimum(outputs, cut.block * (blocks * np.arange(groups + 1) // groups)).astype(np.int32)
    return Dense(
        cut, bounds, np.concatenate(parts), np.concatenate(runs).astype(np.int32), np.array(sections, np.int32)
    )


def unpack(packed: Dense, taps: Taps, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """The exact weight that was packed."""
    block = packed.cut.block
    padded = -(-shape[0] // block) * block
    weight = np.zeros((padded, shape[1] * shape[2] * shape[3]), np.float32)
    at = 0
    for inputs in _chunks(shape, taps, packed.cut.chunk):
        part = packed.matrix[at : at + padded * len(inputs)].reshape(-1, len(inputs), block)
        weight[:, inputs] = part.transpose(0, 2, 1).reshape(padded, -1)
        at += part.size
    return weight[: shape[0]].reshape(shape)


def _chunks(shape: tuple[int, ...], taps: Taps, chunk: int) -> list[NDArray[np.int64]]:
    """Per chunk the positions in a flattened filter, tap by tap, or channel by channel and row by row."""
    channels, rows, columns = shape[1:]
    position = np.arange(channels * rows * columns).reshape(channels, rows, columns)
    order = (1, 0, 2) if _by_row(taps, shape) else (1, 2, 0)
    return [position[low : low + chunk].transpose(order).reshape(-1) for low in range(0, channels, chunk)]


def _by_row(taps: Taps, shape: tuple[int, ...]) -> bool:
    return taps.lanes == 1 and shape[3] > shape[1]
