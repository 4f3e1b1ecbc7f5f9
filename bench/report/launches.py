"""How much processes of one artifact differ, and the interval of a speed-up that includes it.

Rounds see the noise of calls and the drift of the machine; they do not see that a process may be a per cent faster or
slower than another of the same artifact for as long as it lives. So the repetition that counts is the launch (Georges,
Buytaert, Eeckhout, Statistically Rigorous Java Performance Evaluation, OOPSLA 2007; Kalibera and Jones, Rigorous
Benchmarking in Reasonable Time, ISMM 2013).
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import msgspec

from bench.report.intervals import Estimate, median_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measurement import Measurement

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 0.975 for 1 to 30 degrees of freedom."""


class Spread(msgspec.Struct, frozen=True):
    """Standard deviation of the logarithm of a process's latency, from ``freedom`` degrees of freedom."""

    deviation: float
    freedom: int


def student_t(freedom: int) -> float:
    """The factor of a 95 % interval; beyond the table the normal's with its first correction."""
    return _T_975[freedom - 1] if freedom <= len(_T_975) else 1.960 + 2.37 / freedom


def log_ratios(numerator: Measurement, denominator: Measurement) -> list[float]:
    """Per launch: the median over its rounds of the logarithm of the ratio of the two medians of a round."""
    launches = zip(_logs(numerator), _logs(denominator), strict=False)  # a worker that failed has fewer
    return [statistics.median(a - b for a, b in zip(above, below, strict=False)) for above, below in launches]


def spread_of(measurements: Sequence[Measurement]) -> Spread | None:
    """Between processes, pooled over what was measured side by side; ``None`` with one launch or one process.

    A launch shifts all artifacts alike, and so does a round; what is left when the means of artifacts and of launches
    are taken off has ``(a - 1)(l - 1)`` degrees of freedom (a randomised block design, launches being the blocks).
    """
    first = measurements[0] if measurements else None
    rows = [log_ratios(m, first) for m in measurements if first is not None]
    launches = min((len(row) for row in rows), default=0)
    if len(rows) < 2 or launches < 2:
        return None
    columns = [statistics.fmean(row[launch] for row in rows) for launch in range(launches)]
    whole = statistics.fmean(columns)
    squares = 0.0
    for row in rows:
        mean = statistics.fmean(row[:launches])
        squares += sum((row[launch] - mean - columns[launch] + whole) ** 2 for launch in range(launches))
    freedom = (len(rows) - 1) * (launches - 1)
    return Spread(math.sqrt(squares / freedom), freedom)


def speedup(numerator: Measurement, denominator: Measurement, spread: Spread | None) -> Estimate:
    """How many times as long the numerator takes: the geometric mean over launches, with its 95 % interval.

    The interval has two parts, added in squares. Within launches: that of the median over all rounds, which assumes
    nothing. Between launches: Student's t of the launches' own ratios, or of what all artifacts' processes differ by,
    whichever is wider: the first may be narrow by luck, the second understates an artifact that varies more than most.
    """
    per_launch = log_ratios(numerator, denominator)
    within = median_interval(_round_logs(numerator, denominator))
    between = _between(per_launch, spread)
    middle = statistics.fmean(per_launch)
    low = math.hypot(within.value - within.low, between)
    high = math.hypot(within.high - within.value, between)
    return Estimate(math.exp(middle), math.exp(middle - low), math.exp(middle + high))


def _between(per_launch: Sequence[float], spread: Spread | None) -> float:
    count = len(per_launch)
    if count < 2 or spread is None:
        return 0.0
    own = student_t(count - 1) * statistics.stdev(per_launch) / math.sqrt(count)
    return max(own, student_t(spread.freedom) * spread.deviation * math.sqrt(2 / count))


def _logs(m: Measurement) -> list[list[float]]:
    """Per launch and round: the logarithm of the median call."""
    return [[math.log(statistics.median(turn)) for turn in rounds] for rounds in m.by_launch]


def _round_logs(numerator: Measurement, denominator: Measurement) -> list[float]:
    launches = zip(_logs(numerator), _logs(denominator), strict=False)
    return [a - b for above, below in launches for a, b in zip(above, below, strict=False)]
