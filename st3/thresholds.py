"""The global threshold: a quantile over all prunable weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def quantile(values: Tensor, fraction: float) -> Tensor:
    """Quantile with linear interpolation between order statistics, as ``torch.quantile`` but without its size limit.

    Args:
        values: ``(n,)``, any n from 1 (``torch.quantile`` ends at 2^24).
        fraction: in [0, 1].

    Returns:
        Scalar tensor; ``floor(fraction * (n - 1)) + 1`` of n distinct values lie at or below it, or one more.
    """
    position = fraction * (values.numel() - 1)
    below = math.floor(position)
    if values.is_cuda:
        # kthvalue scans a row with a single thread block; a radix sort of the whole row is much faster there
        ordered = values.sort().values
        low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    else:
        low = values.kthvalue(below + 1).values
        greater = torch.where(values > low, values, torch.inf).amin()
        several = (values <= low).sum() > below + 1
        high = torch.where(several | greater.isinf(), low, greater)
    return torch.lerp(low, high, position - below)


def sigma(shape: tuple[int, ...]) -> float:
    """ST-3-sigma's width of a layer: ``1 / sqrt(sum of the weight's shape)`` (Cout + Cin/groups + kh + kw)."""
    return 1.0 / math.sqrt(sum(shape))
