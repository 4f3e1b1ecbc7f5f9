"""ST-3's formulas on one weight: mask, soft and hard threshold, channel scale, straight-through gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_mask(weight: Tensor, threshold: Tensor) -> Tensor:
    """True where the magnitude lies above the threshold."""
    return weight.abs() > threshold


def soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """``sign(w) (|w| - T)`` above the threshold, zero elsewhere; continuous at ``|w| = T`` (ST-3)."""
    return torch.where(keep_mask(weight, threshold), weight - weight.sign() * threshold, 0.0)


def hard_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """The weight itself above the threshold, zero elsewhere."""
    return torch.where(keep_mask(weight, threshold), weight, 0.0)


def channel_scale(weight_NKRS: Tensor, threshold: Tensor) -> Tensor:
    """ST-3's scale of each output channel, in the authors' code ``1.01 / (r + 0.01)``.

    ``r = (mean(|w| m) + 1e-6) / (mean|w| + 1e-6)`` with means over everything but the output channel. It is exactly 1
    where nothing is thresholded.

    Returns:
        ``(N, 1, ...)``, ready to multiply the weight.
    """
    magnitude = weight_NKRS.abs()
    inner = tuple(range(1, weight_NKRS.dim()))
    kept = torch.where(keep_mask(weight_NKRS, threshold), magnitude, 0.0).mean(inner, keepdim=True)
    ratio = (kept + 1e-6) / (magnitude.mean(inner, keepdim=True) + 1e-6)
    # at threshold 0 the formula rounds to 1 only almost; a tensor condition, so that the model can be exported
    return torch.where((threshold > 0).any(), 1.01 / (ratio + 0.01), 1.0)


def straight_through(effective: Tensor, weight: Tensor) -> Tensor:
    """The value of ``effective``, the gradient of ``weight``: what arrives is handed to every weight unchanged.

    ``w - w.detach()`` is exactly zero, so no bit of ``effective`` changes but the sign of a negative zero.
    """
    return effective.detach() + (weight - weight.detach())
