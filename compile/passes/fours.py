"""Searches an order of channels in which no four in a row hold more than two non-zeros of any row of weights.

Rows that are sparse enough have many such orders. A pair of channels in two groups of four is exchanged as long as that
breaks fewer groups, or as many. (Channel permutations for N:M sparsity, Pool and Yu, NeurIPS 2021, exchange channels to
prune less; here nothing is pruned, the zeros that are there are grouped.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
"""``(channels, words)``: which rows have a non-zero in a channel, 64 rows a word."""
HOPELESS = 12.0
"""Broken groups per four channels from which on nothing is tried; random zeros could not be mended beyond 8 or so."""
_TABLE = np.array([number.bit_count() for number in range(2**16)], np.uint8)  # for numpy 1, which counts no bits
_STUCK = 400  # exchanges in a row that mend nothing
_WORK = 2 * 10**9  # words looked at: a second or two


def pack_rows(kept: NDArray[np.bool_]) -> Bits:
    """The rows of ``(rows, channels)`` that can break a group at all: those with more than two non-zeros."""
    kept = kept[kept.sum(1) > 2]
    rows = np.zeros((-(-max(len(kept), 1) // 64) * 64, kept.shape[1]), np.bool_)
    rows[: len(kept)] = kept
    return np.ascontiguousarray(np.packbits(rows, axis=0).T).view(np.uint64)


def broken(bits: Bits, order: NDArray[np.int64]) -> int:
    """Groups, over all rows, that hold more than two non-zeros."""
    return int(_costs(bits, order.reshape(-1, 4)).sum())


def order_for(weight: NDArray[np.generic]) -> NDArray[np.int64] | None:
    """An order of the input channels of ``(N, C, ...)`` that makes it 2:4; ``None`` if it is, or none was found."""
    channels = weight.shape[1]
    if channels % 4:
        return None
    bits, identity = pack_rows(rows_of(weight, 0, channels)), np.arange(channels, dtype=np.int64)
    if not 0 < broken(bits, identity) <= HOPELESS * channels / 4:
        return None
    order, left = mend(bits, identity)
    return None if left else order


def mend(bits: Bits, order: NDArray[np.int64], seed: int = 0) -> tuple[NDArray[np.int64], int]:
    """Exchange channels until no group is broken, or nothing helps any more.

    Args:
        bits: the rows; ``channels`` is a multiple of 4.
        order: ``(channels,)``, where to begin.
        seed: which of equally good exchanges is taken.

    Returns:
        The order, and how many groups it breaks.
    """
    random = np.random.default_rng(seed)
    fours = order.reshape(-1, 4).copy()
    costs = _costs(bits, fours)
    stuck, work = 0, 0
    while costs.any() and stuck < _STUCK and work < _WORK:
        work += 14 * bits.size
        four, place = int(random.choice(np.flatnonzero(costs))), int(random.integers(4))
        change = _changes(bits, fours, costs, four, place)
        best = int(change.min())
        stuck = 0 if best < 0 else stuck + 1
        if best > 0:
            continue
        ties = np.argwhere(change == best)
        other, there = ties[random.integers(len(ties))]
        fours[four, place], fours[other, there] = fours[other, there], fours[four, place]
        changed = [four, int(other)]
        costs[changed] = _costs(bits, fours[changed])
    return fours.reshape(-1), int(costs.sum())


def _changes(
    bits: Bits, fours: NDArray[np.int64], costs: NDArray[np.int64], four: int, place: int
) -> NDArray[np.int64]:
    """How many groups more are broken if a channel is exchanged with each other one: ``(fours, 4)``."""
    own = bits[fours[four, place]]
    a, b, c = (bits[fours[four, other]] for other in range(4) if other != place)
    here = _count(a, b, c, bits)[fours]
    members = bits[fours]
    there = np.empty(fours.shape, np.int64)
    for other in range(4):
        d, e, f = (members[:, kept] for kept in range(4) if kept != other)
        there[:, other] = _count(d, e, f, own)
    change: NDArray[np.int64] = here + there - costs[:, None] - costs[four]
    change[four] = np.iinfo(np.int64).max
    return change


def _costs(bits: Bits, fours: NDArray[np.int64]) -> NDArray[np.int64]:
    a, b, c, d = (bits[fours[:, member]] for member in range(4))
    return _count(a, b, c, d)


def _count(a: Bits, b: Bits, c: Bits, d: Bits) -> NDArray[np.int64]:
    """Rows in which three or four of four channels are not zero."""
    three: Bits = ((a & b & (c | d)) | (c & d & (a | b))).astype(np.uint64, copy=False)
    return _ones(three)


def _ones(words: Bits) -> NDArray[np.int64]:
    counts: NDArray[np.uint8] = (
        np.bitwise_count(words) if hasattr(np, "bitwise_count") else _TABLE[words.view(np.uint16)]
    )
    total: NDArray[np.int64] = counts.sum(-1, dtype=np.int64)
    return total


def rows_of(weight: NDArray[np.generic], first: int, size: int) -> NDArray[np.bool_]:
    """Non-zeros of some input channels of ``(N, C, ...)``, a row per output channel and tap: ``(rows, size)``."""
    part = weight[:, first : first + size] != 0
    rows: NDArray[np.bool_] = part.swapaxes(1, -1).reshape(-1, size)
    return rows


def joined(parts: Sequence[Bits]) -> Bits:
    """All rows of several convolutions that read the same channels."""
    return np.concatenate(parts, 1)
