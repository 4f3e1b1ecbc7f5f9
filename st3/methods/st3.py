"""ST-3: soft threshold, channel scale and straight-through gradient (arXiv 2212.01076)."""

from __future__ import annotations

from torch import Tensor, nn

from st3.formulas import channel_scale, soft_threshold, straight_through
from st3.plan import SparsityPlan
from st3.pruner import Pruner


def effective(weight: Tensor, threshold: Tensor) -> Tensor:
    """``s_c sign(w) (|w| - T)+``; the gradient reaches every latent weight, pruned ones too, unchanged."""
    return straight_through(channel_scale(weight, threshold) * soft_threshold(weight, threshold), weight)


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """One threshold for all layers; for an N:M pattern one for each group."""
    return Pruner(model, plan, effective)
