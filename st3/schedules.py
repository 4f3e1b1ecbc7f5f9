"""How the sparsity grows during training."""

from __future__ import annotations


def cubic(progress: float, begin: float, end: float) -> float:
    """Cubic ramp from 0 to 1: ``1 - (1 - t)^3`` (Zhu and Gupta 2017, equation 1; used by ST-3).

    Args:
        progress: how much of the training is done, in [0, 1].
        begin: progress up to which the ramp is 0.
        end: progress from which it is exactly 1.
    """
    if progress >= end:
        return 1.0
    if progress <= begin:
        return 0.0
    t = (progress - begin) / (end - begin)
    return 1.0 - (1.0 - t) ** 3
