"""The methods' formulas on one weight: thresholds hard, soft and powered, scales, straight-through gradient.

``score`` is what is compared with the threshold ``T``: the magnitude, or for groups their mean magnitude
(``st3.patterns.score``). Every formula for groups is that for single weights where the groups have one member.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FEATHER_POWER = 3


def keep_mask(score: Tensor, threshold: Tensor) -> Tensor:
    """True where the score lies above the threshold."""
    return score > threshold


def soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """``sign(w) (|w| - T)`` above the threshold, zero elsewhere; continuous at ``|w| = T`` (ST-3).

    Written as what is left of the weight outside ``[-T, T]``: two passes over memory, and a zero is +0.
    """
    return weight - weight.clamp(-threshold, threshold)


def soft_threshold_of_groups(weight: Tensor, score: Tensor, threshold: Tensor) -> Tensor:
    """``w (1 - T / a)`` in groups whose mean magnitude ``a`` lies above the threshold, zero elsewhere.

    Every weight of a group shrinks by the same factor, so the group's mean magnitude becomes ``a - T``, which is
    continuous at ``a = T``. It is the proximal operator of the group lasso with the mean magnitude for norm.
    """
    return torch.where(keep_mask(score, threshold), weight - weight * (threshold / score), 0.0)


def hard_threshold(weight: Tensor, score: Tensor, threshold: Tensor) -> Tensor:
    """The weight itself above the threshold, zero elsewhere."""
    return torch.where(keep_mask(score, threshold), weight, 0.0)


def powered_threshold(weight: Tensor, score: Tensor, threshold: Tensor) -> Tensor:
    """``w (1 - (T / a)^3)^(1/3)`` above the threshold, zero elsewhere (Feather, BMVC 2023, with its power p = 3).

    For single weights that is ``sign(w) (|w|^3 - T^3)^(1/3)``: continuous like the soft threshold, and near the hard
    one far from it. As a ratio, since the cube of a small weight is no float32.
    """
    share = (1 - (threshold / score) ** FEATHER_POWER).clamp(min=0) ** (1 / FEATHER_POWER)
    return torch.where(keep_mask(score, threshold), weight * share, 0.0)


def channel_scale(magnitude_NKRS: Tensor, kept: Tensor, threshold: Tensor) -> Tensor:
    """ST-3's scale of each output channel, in the authors' code ``1.01 / (r + 0.01)``.

    ``r = (mean(|w| m) + 1e-6) / (mean|w| + 1e-6)`` with means over everything but the output channel. It is exactly 1
    where nothing is thresholded.

    Args:
        magnitude_NKRS: ``|w|``.
        kept: the mask m.
        threshold: which gave the mask.

    Returns:
        ``(N, 1, ...)``, ready to multiply the weight.
    """
    inner = tuple(range(1, magnitude_NKRS.dim()))
    rest = (magnitude_NKRS * kept).mean(inner, keepdim=True)
    ratio = (rest + 1e-6) / (magnitude_NKRS.mean(inner, keepdim=True) + 1e-6)
    # at threshold 0 the formula rounds to 1 only almost; a tensor condition, so that the model can be exported
    return torch.where((threshold > 0).any(), 1.01 / (ratio + 0.01), 1.0)


def least_squares_scale(weight: Tensor, pruned: Tensor) -> Tensor:
    """``<w, S(w)> / ||S(w)||^2``, nearest to ``w`` among the multiples of ``S(w)`` (S-STE); 1 if that is zero."""
    energy = pruned.square().sum()
    return torch.where(energy > 0, (weight * pruned).sum() / energy, 1.0)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, effective: Tensor) -> Tensor:
        del ctx, weight
        return effective.view_as(effective)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None


class _Damped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, effective: Tensor, kept: Tensor, factor: float) -> Tensor:
        del weight
        ctx.save_for_backward(kept)
        ctx.factor = factor
        return effective.view_as(effective)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (kept,) = ctx.saved_tensors
        return torch.where(kept, gradients[0], gradients[0] * ctx.factor), None, None, None


def straight_through(effective: Tensor, weight: Tensor) -> Tensor:
    """The value of ``effective``, the gradient of ``weight``: what arrives is handed to every weight unchanged.

    Neither direction touches memory.
    """
    result = _StraightThrough.apply(weight, effective.detach())
    assert isinstance(result, Tensor)
    return result


def damped_straight_through(effective: Tensor, weight: Tensor, kept: Tensor, factor: float) -> Tensor:
    """As ``straight_through``, but what pruned weights get is multiplied by ``factor`` (Feather's theta)."""
    result = _Damped.apply(weight, effective.detach(), kept, factor)
    assert isinstance(result, Tensor)
    return result
