"""Quantiles of magnitudes: exact selection without a sort, a host synchronisation or a shape that depends on data.

The bits of a non-negative float32, read as an integer, are in the order of the values. So an order statistic is found
digit by digit: count how many keys fall below each value of the next digit, keep the digit that holds the rank. A CPU,
where no host waits for a device, partitions instead. Counts and keys are integers, so every device and every rank of a
distributed run finds the same weight. NaN counts as the largest magnitude.
"""

from __future__ import annotations

import importlib.util
import math
from typing import final

import numpy as np
import torch
from torch import Tensor

_LARGEST = 0x7FFFFFFF
_DIGITS = (11, 10, 10)  # bits per pass; histograms of 2^11 places stay in the cache, which two passes of 2^16 do not


@final
class Segments:
    """How a flat vector is cut into segments, each with a quantile of its own; tables are made once per device."""

    def __init__(self, lengths: tuple[int, ...], device: torch.device) -> None:
        self.lengths = lengths
        self.device = device
        self.last = torch.tensor([length - 1 for length in lengths], dtype=torch.float64, device=device)
        self.chunks: Tensor | None = None
        if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
            from st3.gpu_selection import chunk_table

            self.chunks = chunk_table(lengths, device)


def quantiles(magnitudes: Tensor, fractions: Tensor, segments: Segments, midway: bool = False) -> Tensor:
    """Quantile of each segment with linear interpolation between order statistics, as ``torch.quantile``.

    Args:
        magnitudes: ``(n,)`` float32, none negative.
        fractions: ``(segments,)`` float64 in [0, 1], on the device.
        segments: the cut; at most 2^31 - 1 values in all.
        midway: lie half way between the order statistic and the next larger value instead. For values that come in
            groups of equals, so that a sum in another order cannot move a whole group across the threshold.

    Returns:
        ``(segments,)`` float32; ``floor(fraction * (n - 1)) + 1`` of n distinct values lie at or below it, or one more.
    """
    position = fractions * segments.last
    ranks = position.floor()
    keys = magnitudes.view(torch.int32)
    low, above, several = _select(keys, ranks.int(), segments)
    above = torch.where(above == _LARGEST, low, above)
    values, larger = low.view(torch.float32), above.view(torch.float32)
    if midway:
        return values + (larger - values) / 2
    rest = (position - ranks).float()
    # an infinite neighbour must not count where the position lies on the order statistic: 0 x inf is NaN
    return torch.where(several | (rest == 0), values, torch.lerp(values, larger, rest))


def sigma(shape: tuple[int, ...]) -> float:
    """ST-3-sigma's width of a layer: ``1 / sqrt(sum of the weight's shape)`` (Cout + Cin/groups + kh + kw)."""
    return 1.0 / math.sqrt(sum(shape))


def top_mask(scores: Tensor, count: int) -> Tensor:
    """True for exactly ``count`` of the largest scores; of equal ones the first. Sorts: not for every step."""
    flat = scores.flatten()
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    limit = flat.sort(descending=True).values[count - 1]
    larger, equal = flat > limit, flat == limit
    return (larger | (equal & (equal.cumsum(0) <= count - larger.sum()))).view_as(scores)


def _select(keys: Tensor, ranks: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
    """The key of each segment's rank (from 0), the smallest larger key, and whether the next rank has the same key."""
    if segments.chunks is not None:
        from st3.gpu_selection import select

        return select(keys, ranks, segments.chunks)
    parts = zip(keys.split_with_sizes(segments.lengths), ranks.unsqueeze(1).unbind(), strict=True)
    # a CPU has nothing to wait for; a fake tensor, which also says that it is on one, has no values
    one = _select_on_cpu if keys.device.type == "cpu" and type(keys) is Tensor else _select_by_digits
    low, above, several = zip(*(one(part, rank) for part, rank in parts), strict=True)
    return torch.cat(low), torch.cat(above), torch.cat(several)


def _select_on_cpu(keys: Tensor, rank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By NumPy's partition, which has a vectorised quickselect: a tenth of the time of the digits."""
    place = int(np.from_dlpack(rank)[0])
    parted = np.partition(np.from_dlpack(keys), place)
    low, rest = parted[place], parted[place + 1 :]
    following = rest.min(initial=_LARGEST)
    several = len(rest) > 0 and following == low
    above = rest.min(initial=_LARGEST, where=rest > low) if several else following
    found = torch.tensor([low, above], dtype=torch.int32)
    return found[:1], found[1:], torch.tensor([several])


def _select_by_digits(keys: Tensor, rank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    one = torch.ones(1, dtype=torch.int32, device=keys.device).expand(len(keys))
    prefix, left, shift = torch.zeros_like(rank), rank, 31
    for bits in _DIGITS:
        shift -= bits
        digits, places, member = keys >> shift, 1 << bits, one
        if shift + bits < 31:
            # keys of another prefix count nothing, but where they would: one place for them all would be a slow one
            member = ((digits >> bits) == prefix).int()
            digits = digits & (places - 1)
        counts = torch.zeros(places, dtype=torch.int32, device=keys.device).index_add_(0, digits, member)
        upto = counts.cumsum(0, dtype=torch.int32)
        digit = (upto <= left).sum(0, keepdim=True)
        below = torch.where(digit > 0, upto[(digit - 1).clamp(min=0)], 0)
        left = left - below
        prefix = (prefix << bits) | digit.int()
    above = torch.where(keys > prefix, keys, _LARGEST).amin(0, keepdim=True)
    return prefix, above, upto[digit] - below > left + 1
