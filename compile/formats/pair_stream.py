"""Unstructured weights of two output channels at a time, so that taps of both are loaded once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import Cut
from compile.formats.offset_stream import AT_ONCE, BREAK_EVEN, SEGMENT, balanced, lines_per_row, narrowed, put_off
from compile.native.taps import Taps

PAIR = np.dtype([(name, "<i4") for name in ("first", "second", "both", "each", "extra")])
_BOTH_AT_ONCE = 4  # shared taps that the kernel runs in one go; what is over is read twice


class PairStream(msgspec.Struct, frozen=True):
    """Packed weights, in the order in which they are run: chunk by chunk, in each the pairs of all groups.

    A pair's entries are ``both`` taps that the two channels share (one offset, two weights), ``each`` taps of the first
    and as many of the second in turns, and ``extra`` ones of the first, which has more. ``segments``, ``bounds`` and
    ``offsets`` are as in ``OffsetStream``, but that ``offset_starts`` says where a segment's offsets begin; ``pairs``
    ends with a sentinel.
    """

    bounds: NDArray[np.int32]
    segments: NDArray[np.void]
    pairs: NDArray[np.void]
    weights: NDArray[np.float32]
    offsets: NDArray[np.unsignedinteger[Any]]
    offset_starts: NDArray[np.int32]

    @property
    def chunks(self) -> int:
        """Chunks of input channels."""
        return len(self.segments)


def reject(weight: NDArray[np.float32]) -> str | None:
    """Too dense for the dense kernel not to be faster, or no second channel."""
    density = np.count_nonzero(weight) / weight.size
    if density >= BREAK_EVEN:
        return f"density {density:.3f} is past break-even {BREAK_EVEN}"
    return "one output channel has none to share its loads with" if len(weight) == 1 else None


def pack(weight: NDArray[np.float32], taps: Taps, cut: Cut) -> PairStream:
    """Pack ``weight`` ``(N, C, R, S)`` of an ungrouped convolution; zeros are dropped, all else is kept bit for bit.

    Channels are paired anew in each chunk, so as to have many taps in common. Chunks and groups are those of
    ``offset_stream.pack``.
    """
    assert taps.groups == 1, "the channels of a pair read the same input"
    outputs = len(weight)
    kept = weight != 0
    matrix = weight.reshape(outputs, -1)
    bounds = balanced(kept.reshape(outputs, -1).sum(1), min(cut.groups, outputs))
    places = taps.offsets((1, *weight.shape[1:])).reshape(-1) // taps.vector
    chunk_of = _chunks(kept, cut)
    segments = np.zeros((-(-weight.shape[1] // cut.chunk), len(bounds) - 1), SEGMENT)
    offset_starts = np.zeros(segments.shape, np.int32)
    pairs, weights, offsets = [], [], []
    pair_at = weight_at = offset_at = 0
    for chunk in range(len(segments)):
        needed = chunk in (0, len(segments) - 1)  # these begin and end every channel's sum
        for group, (low, high) in enumerate(pairwise(bounds)):
            taps_of = chunk_of[low:high] == chunk
            read = np.flatnonzero(taps_of.any(0))
            found, entries, at = _pack_rows(matrix[low:high, read], taps_of[:, read], places[read], needed)
            found["first"] += low
            found["second"] += low
            lines = lines_per_row(len(entries) * taps.item, len(found))
            segments[chunk, group] = (pair_at, len(found), weight_at, lines)
            offset_starts[chunk, group] = offset_at
            pair_at, weight_at, offset_at = pair_at + len(found), weight_at + len(entries), offset_at + len(at)
            pairs.append(found)
            weights.append(entries)
            offsets.append(at)
    sentinel = np.array([(bounds[-1] - 1, bounds[-1] - 1, 0, 0, 0)], PAIR)
    return PairStream(
        np.array(bounds, np.int32),
        segments,
        np.concatenate([*pairs, sentinel]),
        np.concatenate(weights),
        narrowed(np.concatenate(offsets), taps, kept.shape),
        offset_starts.reshape(-1),
    )


def unpack(packed: PairStream, taps: Taps, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """The exact weight that was packed."""
    weight = np.zeros(shape, np.float32)
    tap_offset = taps.offsets((1, *shape[1:]))[0] // taps.vector
    for segment, offset_at in zip(packed.segments.reshape(-1), packed.offset_starts, strict=True):
        weight_at = int(segment["entry"])
        for pair in packed.pairs[segment["row"] : segment["row"] + segment["row_count"]]:
            first, second, both, each, extra = pair.item()
            read = [channel for _ in range(both) for channel in (first, second)]
            read += [channel for _ in range(each) for channel in (first, second)] + [first] * extra
            steps = [0, 1] * both + [1] * (2 * each + extra)
            for channel, step in zip(read, steps, strict=True):
                weight[channel][tap_offset == packed.offsets[offset_at]] = packed.weights[weight_at]
                weight_at, offset_at = weight_at + 1, offset_at + step
    return weight


def _chunks(kept: NDArray[np.bool_], cut: Cut) -> NDArray[np.int64]:
    """The chunk of each tap ``(N, C * R * S)``, -1 where there is no entry."""
    outputs, inputs = kept.shape[:2]
    starts = np.arange(0, inputs, cut.chunk)
    counts = np.add.reduceat(kept.reshape(outputs, inputs, -1).sum(2), starts, axis=1)
    found = np.full((outputs, kept[0].size), -1)
    found[kept.reshape(outputs, -1)] = put_off(counts, AT_ONCE)
    return found


def _pack_rows(
    rows: NDArray[np.float32], kept: NDArray[np.bool_], places: NDArray[np.int64], needed: bool
) -> tuple[NDArray[np.void], NDArray[np.float32], NDArray[np.int64]]:
    """Pairs, weights and offsets of one chunk of one group's rows ``(channels, taps)``."""
    counts = kept.sum(1)
    used = np.arange(len(rows)) if needed else np.flatnonzero(counts)
    mates = used[match(kept[used])]
    first, second = mates[:, 0], mates[:, 1]
    one, two = kept[first], kept[second] & (first != second)[:, None]
    both = one & two
    both &= np.cumsum(both, axis=1) <= (both.sum(1) - both.sum(1) % _BOTH_AT_ONCE)[:, None]
    only_one, only_two = one & ~both, two & ~both
    pairs = np.zeros(len(mates), PAIR)
    pairs["first"], pairs["second"] = first, second
    pairs["both"], pairs["each"] = both.sum(1), only_two.sum(1)
    pairs["extra"] = only_one.sum(1) - pairs["each"]
    # an entry's key has in this order: pair, kind (both, each, extra), how many of the kind come before, which channel
    found = []
    for mask, channels in ((both, (first, second)), (only_one, (first,)), (only_two, (second,))):
        pair, tap = np.nonzero(mask)
        count = np.bincount(pair, minlength=len(pairs))
        rank = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        kind = 0 if mask is both else 1 + (rank >= pairs["each"][pair])
        key = ((3 * pair + kind) * kept.shape[1] + rank) * 2
        for channel in channels:
            side = int(channel is second)
            read = np.full(len(tap), not (side and mask is both))  # taps of both are read once
            found.append((key + side, channel[pair], tap, read))
    key, channel, tap, read = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(key)
    channel, tap, read = channel[order], tap[order], read[order]
    return pairs, rows[channel, tap], places[tap[read]]


def match(kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pairs of rows of ``(rows, taps)`` that share many taps and have about as many; ``(rows / 2 rounded up, 2)``.

    Greedy, the longest row first; pairs of about the same lengths follow each other, the processor then foresees most
    loops' ends. A row that is left over is paired with itself.
    """
    taps = kept.astype(np.float32)
    counts = kept.sum(1)
    shared = taps @ taps.T
    score = shared - np.abs(counts[:, None] - counts[None, :]).astype(np.float32)
    np.fill_diagonal(score, -np.inf)
    free = [True] * len(kept)
    mates = []
    for row in np.argsort(-counts, kind="stable").tolist():
        if not free[row]:
            continue
        mate = int(score[row].argmax())
        if score[row, mate] == -np.inf:
            mate = row
        free[row] = free[mate] = False
        score[:, row] = score[:, mate] = -np.inf
        mates.append((row, mate, int(shared[row, mate]) // _BOTH_AT_ONCE, int(counts[row])))
    mates.sort(key=lambda pair: (-pair[3], -pair[2], pair[0]))
    return np.array([pair[:2] for pair in mates], np.int64).reshape(-1, 2)
