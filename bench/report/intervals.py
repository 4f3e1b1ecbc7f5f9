"""Robust statistics of repeated timings: medians, percentiles, and the interval of a median without assumptions."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A median with the limits of its 95 % interval."""

    value: float
    low: float
    high: float


def percentile(samples: Sequence[float], fraction: float) -> float:
    """Quantile with linear interpolation between order statistics (type 7 of Hyndman and Fan, 1996)."""
    ordered = sorted(samples)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def median_interval(samples: Sequence[float]) -> Estimate:
    """Median with its distribution-free interval.

    The k-th smallest and k-th largest of n samples enclose the true median with probability
    ``1 - 2 P(Binomial(n, 1/2) < k)``; k is the largest that keeps 95 % (Conover, Practical Nonparametric
    Statistics, section 3.2). With fewer than six samples the interval is the whole range and covers less.
    """
    ordered = sorted(samples)
    n = len(ordered)
    k, tail = 0, 0.0
    while k < n // 2:
        tail += math.comb(n, k) / 2**n
        if 2 * tail > 1 - CONFIDENCE:
            break
        k += 1
    rank = max(k, 1)
    return Estimate(value=statistics.median(ordered), low=ordered[rank - 1], high=ordered[n - rank])
