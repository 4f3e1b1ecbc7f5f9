"""One artifact's latency in two sessions: each with an interval of its own, for rounds cannot be paired across them."""

from __future__ import annotations

import math
import statistics
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from bench.report.intervals import Estimate, median_interval
from bench.report.launches import student_t

if TYPE_CHECKING:
    from bench.measurement import Measurement
    from bench.report.launches import Spread


class LogLatency(msgspec.Struct, frozen=True):
    """The logarithm of a latency in ms, and how far its 95 % interval reaches below and above."""

    middle: float
    below: float
    above: float


def log_latency(m: Measurement, spread: Spread | None) -> LogLatency:
    """The mean over launches of the median over their rounds, as ``bench.report.launches`` has it for a ratio.

    The interval has the median's within launches and Student's t between launches, added in squares; ``spread`` is
    what processes of one artifact differ by in this session.
    """
    launches = [[math.log(statistics.median(turn)) for turn in rounds] for rounds in m.by_launch]
    middles = [statistics.median(rounds) for rounds in launches]
    within = median_interval(list(chain.from_iterable(launches)))
    between = 0.0
    if len(middles) > 1:
        between = student_t(len(middles) - 1) * statistics.stdev(middles) / math.sqrt(len(middles))
        if spread is not None:
            between = max(between, student_t(spread.freedom) * spread.deviation / math.sqrt(len(middles)))
    return LogLatency(
        middle=statistics.fmean(middles),
        below=math.hypot(within.value - within.low, between),
        above=math.hypot(within.high - within.value, between),
    )


def quotient(above: LogLatency, below: LogLatency) -> Estimate:
    """How many times the first is the second; two independent errors are added in squares."""
    middle = above.middle - below.middle
    return Estimate(
        value=math.exp(middle),
        low=math.exp(middle - math.hypot(above.below, below.above)),
        high=math.exp(middle + math.hypot(above.above, below.below)),
    )


def from_estimate(estimate: Estimate) -> LogLatency:
    """A ratio with its interval, on the scale on which quotients are taken."""
    middle = math.log(estimate.value)
    return LogLatency(middle, middle - math.log(estimate.low), math.log(estimate.high) - middle)
