"""Unstructured weights as one stream of values and offsets per output channel, in chunks of input channels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import Cut
from compile.native.taps import Taps

ROW = np.dtype([("channel", "<i4"), ("count", "<i4")])
SEGMENT = np.dtype([("row", "<i4"), ("row_count", "<i4"), ("entry", "<i4"), ("lines", "<i4")])
# Density from which the dense kernel is faster; see LOG.md for the measurement.
BREAK_EVEN = 0.8
_SENTINELS = 2  # the kernel fetches the output of two rows ahead
_LINE = 64
AT_ONCE = 4  # entries that the kernel runs in one go


class OffsetStream(msgspec.Struct, frozen=True):
    """Packed weights, in the order in which they are run: chunk by chunk, in each the rows of all groups.

    ``segments`` ``(chunks, groups)`` says where the rows and entries of each begin; ``bounds`` ``(groups + 1,)`` are
    output channels; ``rows`` ends with sentinels. ``offsets`` are counted in vectors and have 16 bits where every tap
    of the layer is that near.
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
    order = arrange(weight != 0, taps, cut, taps.item, AT_ONCE)
    return OffsetStream(order.bounds, order.segments, order.rows, weight.reshape(-1)[order.places], order.offsets)


def unpack(packed: OffsetStream, taps: Taps, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """The exact weight that was packed."""
    weight = np.zeros(shape, np.float32)
    tap_offset = taps.offsets(shape)
    for segment in packed.segments.reshape(-1):
        at = segment["entry"]
        for row in packed.rows[segment["row"] : segment["row"] + segment["row_count"]]:
            for index in range(at, at + row["count"]):
                offset = int(packed.offsets[index]) * taps.vector
                weight[row["channel"]][tap_offset[row["channel"]] == offset] = packed.weights[index]
            at += row["count"]
    return weight


class Order(msgspec.Struct, frozen=True):
    """The order in which a stream is run; see ``OffsetStream``. ``places`` are flat indices, one per entry."""

    bounds: NDArray[np.int32]
    segments: NDArray[np.void]
    rows: NDArray[np.void]
    places: NDArray[np.int64]
    offsets: NDArray[np.unsignedinteger[Any]]


def arrange(kept: NDArray[np.bool_], taps: Taps, cut: Cut, entry_bytes: int, at_once: int = 1) -> Order:
    """Put the places of ``kept`` ``(N, C/groups, R, S)`` in order.

    Args:
        kept: where entries are.
        taps: where each tap lies in the input tensor.
        cut: see ``pack``.
        entry_bytes: what an entry's weights take.
        at_once: a row has a multiple of so many entries in all chunks but the last; what is over waits for the next
            chunk. The lengths of rows then differ less, so that the processor foresees more of their ends, and a row
            with next to no entries in a chunk is left out of it.
    """
    outputs, chunks = len(kept), -(-taps.channels // cut.chunk)
    place = np.flatnonzero(kept)
    row = place // kept[0].size
    chunk = taps.input_channel(kept.shape).reshape(-1)[place] // cut.chunk
    if at_once > 1:
        chunk = put_off(np.bincount(row * chunks + chunk, minlength=outputs * chunks).reshape(outputs, chunks), at_once)
    counts = np.bincount(chunk * outputs + row, minlength=chunks * outputs).reshape(chunks, outputs)
    bounds = balanced(counts.sum(0), min(cut.groups, outputs))
    group = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    # rows of one length follow each other; a stable sort keeps the entries of a row in the order of their offsets
    place = place[np.lexsort((row, -counts[chunk, row], group[row], chunk))]
    offset = taps.offsets(kept.shape).reshape(-1)[place] // taps.vector
    rows = _rows(counts, bounds, entry_bytes)
    return Order(np.array(bounds, np.int32), *rows, place, narrowed(offset, taps, kept.shape))


def narrowed(offset: NDArray[np.int64], taps: Taps, shape: tuple[int, ...]) -> NDArray[np.unsignedinteger[Any]]:
    """Offsets in vectors, in as few bits as ``offset_type`` says."""
    return offset.astype(offset_type(taps, shape))


def offset_type(taps: Taps, shape: tuple[int, ...]) -> np.dtype[np.unsignedinteger[Any]]:
    """16 bits where every tap of a layer whose weight has that shape is that near, else 32."""
    return np.dtype(np.uint16 if taps.reach(shape) < 2**16 * taps.vector else np.uint32)


def put_off(counts: NDArray[np.int64], at_once: int) -> NDArray[np.int64]:
    """The chunk of each entry, in the order of rows, from the ``counts`` ``(rows, chunks)`` of their own chunks."""
    ends = np.cumsum(counts, axis=1)
    ends[:, :-1] -= ends[:, :-1] % at_once
    return np.repeat(np.tile(np.arange(counts.shape[1]), len(counts)), np.diff(ends, axis=1, prepend=0).reshape(-1))


def balanced(work: NDArray[np.int64], parts: int) -> list[int]:
    """Bounds of ``parts`` non-empty runs of about equal work (each item counts one more, for its fixed cost)."""
    total = np.concatenate(([0], np.cumsum(work + 1)))
    bounds = [int(np.abs(total - total[-1] * part / parts).argmin()) for part in range(parts + 1)]
    for part in range(1, parts):
        bounds[part] = min(max(bounds[part], bounds[part - 1] + 1), len(work) - (parts - part))
    return bounds


def lines_per_row(size: int, rows: int) -> int:
    """Cache lines of weights that a row takes on average, of ``size`` bytes of all of them; rounded up."""
    return -(-size // _LINE // max(rows, 1))


def _rows(counts: NDArray[np.int64], bounds: list[int], entry_bytes: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Segments and rows: in each segment the longest rows first; those without entries only where they must be."""
    segments = np.zeros((len(counts), len(bounds) - 1), SEGMENT)
    found: list[NDArray[np.void]] = []
    row_at = entry_at = 0
    for chunk, line in enumerate(counts):
        for group, (low, high) in enumerate(pairwise(bounds)):
            order = np.argsort(-line[low:high], kind="stable") + low
            if chunk not in (0, len(counts) - 1):
                order = order[line[order] > 0]
            rows = np.zeros(len(order), ROW)
            rows["channel"], rows["count"] = order, line[order]
            entries = int(rows["count"].sum())
            lines = lines_per_row(entries * entry_bytes, len(rows))
            segments[chunk, group] = (row_at, len(rows), entry_at, lines)
            row_at, entry_at = row_at + len(rows), entry_at + entries
            found.append(rows)
    sentinels = np.zeros(_SENTINELS, ROW)
    sentinels["channel"] = bounds[-1] - 1
    return segments, np.concatenate([*found, sentinels])
