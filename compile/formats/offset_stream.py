"""Unstructured weights as one stream of (value, byte offset) per output channel, in chunks of input channels."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import Cut
from compile.native.taps import Taps

ENTRY = np.dtype([("weight", "<f4"), ("offset", "<i4")])
ROW = np.dtype([("channel", "<i4"), ("count", "<i4")])
SEGMENT = np.dtype([("row", "<i4"), ("row_count", "<i4"), ("entry", "<i4"), ("lines", "<i4")])
# Density from which the dense kernel is faster; see LOG.md for the measurement.
BREAK_EVEN = 0.8
_SENTINELS = 2  # the kernel fetches the output of two rows ahead
_LINE = 64


class OffsetStream(msgspec.Struct, frozen=True):
    """Packed weights, in the order in which they are run: chunk by chunk, in each the rows of all groups.

    ``segments`` ``(chunks, groups)`` says where the rows and entries of each begin; ``bounds`` ``(groups + 1,)`` are
    output channels; ``rows`` ends with sentinels.
    """

    bounds: NDArray[np.int32]
    segments: NDArray[np.void]
    rows: NDArray[np.void]
    entries: NDArray[np.void]

    @property
    def chunks(self) -> int:
        """Chunks of input channels."""
        return len(self.segments)


def reject(weight: NDArray[np.float32]) -> str | None:
    """Too dense: each weight costs a load of its own here, which the dense kernel shares among output channels."""
    density = np.count_nonzero(weight) / weight.size
    return f"density {density:.3f} is past break-even {BREAK_EVEN}" if density >= BREAK_EVEN else None


def pack(weight: NDArray[np.float32], taps: Taps, cut: Cut) -> OffsetStream:
    """Pack ``weight`` ``(N, C/groups, R, S)``.

    Args:
        weight: zeros are dropped, everything else (NaN too) is kept bit for bit.
        taps: where each tap lies in the input tensor.
        cut: a row without entries is left out of all chunks but the first and last, which begin and end its sum;
            groups get about equal numbers of entries.
    """
    outputs, chunks = len(weight), -(-taps.channels // cut.chunk)
    place = np.flatnonzero(weight)
    row = place // weight[0].size
    chunk = taps.input_channel(weight.shape).reshape(-1)[place] // cut.chunk
    order = np.argsort(chunk, kind="stable")
    entries = np.zeros(len(place), ENTRY)
    entries["weight"] = weight.reshape(-1)[place[order]]
    entries["offset"] = taps.offsets(weight.shape).reshape(-1)[place[order]]
    counts = np.bincount(chunk * outputs + row, minlength=chunks * outputs).reshape(chunks, outputs)
    listed = counts > 0
    listed[0] = listed[-1] = True
    bounds = balanced(counts.sum(0), cut.groups)
    rows = np.zeros(np.count_nonzero(listed) + _SENTINELS, ROW)
    rows["channel"][:-_SENTINELS] = np.nonzero(listed)[1]
    rows["channel"][-_SENTINELS:] = outputs - 1
    rows["count"][:-_SENTINELS] = counts[listed]
    return OffsetStream(np.array(bounds, np.int32), _segments(counts, listed, bounds), rows, entries)


def unpack(packed: OffsetStream, taps: Taps, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """The exact weight that was packed."""
    weight = np.zeros(shape, np.float32)
    offset = taps.offsets(shape)
    at = 0
    for row in packed.rows[:-_SENTINELS]:
        for entry in packed.entries[at : at + row["count"]]:
            weight[row["channel"]][offset[row["channel"]] == entry["offset"]] = entry["weight"]
        at += row["count"]
    return weight


def balanced(work: NDArray[np.int64], parts: int) -> list[int]:
    """Bounds of ``parts`` non-empty runs of about equal work (each item counts one more, for its fixed cost)."""
    total = np.concatenate(([0], np.cumsum(work + 1)))
    bounds = [int(np.abs(total - total[-1] * part / parts).argmin()) for part in range(parts + 1)]
    for part in range(1, parts):
        bounds[part] = min(max(bounds[part], bounds[part - 1] + 1), len(work) - (parts - part))
    return bounds


def _segments(counts: NDArray[np.int64], listed: NDArray[np.bool_], bounds: list[int]) -> NDArray[np.void]:
    starts = bounds[:-1]
    found = np.zeros((len(counts), len(starts)), SEGMENT)
    row_counts = np.add.reduceat(listed, starts, axis=1, dtype=np.int64)
    entry_counts = np.add.reduceat(counts, starts, axis=1)
    found["row_count"] = row_counts
    found["row"] = (np.cumsum(row_counts) - row_counts.reshape(-1)).reshape(row_counts.shape)
    found["entry"] = (np.cumsum(entry_counts) - entry_counts.reshape(-1)).reshape(entry_counts.shape)
    found["lines"] = -(-entry_counts * ENTRY.itemsize // _LINE // np.maximum(row_counts, 1))
    return found
