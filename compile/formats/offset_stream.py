"""Unstructured weights as one stream of (value, byte offset) per output channel, in chunks of input channels."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import Cut
from compile.native.taps import Taps

ENTRY = np.dtype([("weight", "<f4"), ("offset", "<i4")])
ROW = np.dtype([("channel", "<i4"), ("count", "<i4")])
# Density from which the dense kernel is faster; see LOG.md for the measurement.
BREAK_EVEN = 0.8
_SENTINELS = 2  # the kernel prefetches the output of two rows ahead


class OffsetStream(msgspec.Struct, frozen=True):
    """Packed weights: ``segments[group][chunk]`` is ``(rows, entries)``; ``rows`` ends with two sentinels."""

    segments: tuple[tuple[tuple[NDArray[np.void], NDArray[np.void]], ...], ...]


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
    chunk, groups = cut.chunk, cut.groups
    channel, offset = taps.input_channel(weight.shape), taps.offsets(weight.shape)
    count = -(-taps.channels // chunk)
    kept = weight != 0
    bounds = balanced(kept.reshape(len(weight), -1).sum(1), groups)
    segments = []
    for low, high in pairwise(bounds):
        row_chunks = []
        for index in range(count):
            inside = kept[low:high] & (channel[low:high] // chunk == index)
            ends = index in (0, count - 1)
            row_chunks.append(_segment(weight[low:high], offset[low:high], inside, low, keep_empty=ends))
        segments.append(tuple(row_chunks))
    return OffsetStream(tuple(segments))


def unpack(packed: OffsetStream, taps: Taps, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """The exact weight that was packed."""
    weight = np.zeros(shape, np.float32)
    offset = taps.offsets(shape)
    for group in packed.segments:
        for rows, entries in group:
            at = 0
            for row in rows[: len(rows) - _SENTINELS]:
                for entry in entries[at : at + row["count"]]:
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


def _segment(
    weight: NDArray[np.float32], offset: NDArray[np.int64], inside: NDArray[np.bool_], first: int, keep_empty: bool
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    counts = inside.reshape(len(weight), -1).sum(1)
    channels = np.arange(len(weight)) if keep_empty else np.flatnonzero(counts)
    rows = np.zeros(len(channels) + _SENTINELS, ROW)
    rows["channel"][: len(channels)] = channels + first
    rows["count"][: len(channels)] = counts[channels]
    rows["channel"][len(channels) :] = rows["channel"][len(channels) - 1] if len(channels) else first
    entries = np.zeros(int(counts.sum()), ENTRY)
    entries["weight"] = weight[inside]
    entries["offset"] = offset[inside]
    return rows, entries
