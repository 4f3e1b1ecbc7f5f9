"""Blocks of 4 output channels that share a tap (the pattern 1x4), as one stream per 4 channels."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import Cut
from compile.formats.offset_stream import arrange
from compile.native.taps import Taps

BLOCK = 4
# Density from which the dense kernel is as fast; see LOG.md for the measurement.
BREAK_EVEN = 0.95


class BlockStream(msgspec.Struct, frozen=True):
    """As ``OffsetStream``, with blocks for weights: ``weights`` is ``(entries, 4)``.

    ``rows`` name the first channel of their 4, and ``bounds`` are multiples of 4 except where the channels end.
    """

    bounds: NDArray[np.int32]
    segments: NDArray[np.void]
    rows: NDArray[np.void]
    weights: NDArray[np.float32]
    offsets: NDArray[np.unsignedinteger[Any]]

    @property
    def chunks(self) -> int:
        """Chunks of input channels."""
        return len(self.segments)


def reject(weight: NDArray[np.float32]) -> str | None:
    """Weights whose non-zeros do not fill their blocks, or with next to no zeros.

    A zero that is stored is multiplied: it costs as much as a weight, and turns an infinite input into a NaN that the
    other formats do not give. So every block must be full, but for the channels that the last one lacks.
    """
    outputs = len(weight)
    if outputs < BLOCK:
        return f"{outputs} output channels are fewer than a block of {BLOCK}"
    kept = int(np.count_nonzero(weight))
    density = kept / weight.size
    if density >= BREAK_EVEN:
        return f"density {density:.3f} is past break-even {BREAK_EVEN}"
    blocks = _blocks(weight)
    stored = (blocks != 0).any(axis=1)
    last = outputs - BLOCK * (len(blocks) - 1)
    slots = BLOCK * int(np.count_nonzero(stored[:-1])) + last * int(np.count_nonzero(stored[-1]))
    if kept < slots:
        return f"the non-zeros fill {kept / slots:.3f} of their blocks of {BLOCK} output channels"
    return None


def pack(weight: NDArray[np.float32], taps: Taps, cut: Cut) -> BlockStream:
    """Pack ``weight`` ``(N, C, R, S)`` of an ungrouped convolution; a block is stored where any of its 4 is not zero.

    Chunks and groups are those of ``offset_stream.pack``, with 4 output channels for one.
    """
    assert taps.groups == 1, "the channels of a block read the same input"
    blocks = _blocks(weight)
    order = arrange((blocks != 0).any(axis=1), taps, cut, BLOCK * taps.item)
    rows = order.rows.copy()
    rows["channel"] *= BLOCK
    by_tap = np.ascontiguousarray(np.moveaxis(blocks, 1, -1)).reshape(-1, BLOCK)
    bounds = np.minimum(order.bounds * BLOCK, len(weight)).astype(np.int32)
    return BlockStream(bounds, order.segments, rows, by_tap[order.places], order.offsets)


def unpack(packed: BlockStream, taps: Taps, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """The exact weight that was packed."""
    blocks = -(-shape[0] // BLOCK)
    weight: NDArray[np.float32] = np.zeros((blocks * BLOCK, *shape[1:]), np.float32)
    tap_offset = taps.offsets((1, *shape[1:]))[0] // taps.vector
    for segment in packed.segments.reshape(-1):
        at = segment["entry"]
        for row in packed.rows[segment["row"] : segment["row"] + segment["row_count"]]:
            for index in range(at, at + row["count"]):
                channels = weight[row["channel"] : row["channel"] + BLOCK]
                channels[:, tap_offset == packed.offsets[index]] = packed.weights[index][:, None]
            at += row["count"]
    return np.ascontiguousarray(weight[: shape[0]])


def _blocks(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(N/4 rounded up, 4, C, R, S)``; the channels that the last block lacks are zero."""
    blocks = -(-len(weight) // BLOCK)
    padded = np.zeros((blocks * BLOCK, *weight.shape[1:]), np.float32)
    padded[: len(weight)] = weight
    return padded.reshape(blocks, BLOCK, *weight.shape[1:])
