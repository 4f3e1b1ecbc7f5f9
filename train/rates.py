"""Learning-rate schedules: the factor on the peak rate as a function of progress in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

Rate: TypeAlias = Callable[[float], float]


def cosine(warmup: float) -> Rate:
    """Linear warm-up from 0 over the fraction ``warmup``, then half a cosine from 1 to 0."""

    def rate(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        t = (progress - warmup) / (1 - warmup)
        return 0.5 * (1 + math.cos(math.pi * t))

    return rate


def steps(milestones: tuple[float, ...], factor: float) -> Rate:
    """Multiply by ``factor`` at each milestone."""

    def rate(progress: float) -> float:
        return factor ** sum(progress >= milestone for milestone in milestones)

    return rate
