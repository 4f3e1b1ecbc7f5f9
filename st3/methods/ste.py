"""Hard threshold with a straight-through gradient: ST-3 without the soft threshold and the scale."""

from __future__ import annotations

from torch import Tensor, nn

from st3.formulas import hard_threshold, straight_through
from st3.plan import SparsityPlan
from st3.pruner import Pruner


def effective(weight: Tensor, threshold: Tensor) -> Tensor:
    """``w`` above the threshold, zero elsewhere; the gradient reaches every latent weight unchanged."""
    return straight_through(hard_threshold(weight, threshold), weight)


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """One threshold for all layers; for an N:M pattern one for each group."""
    return Pruner(model, plan, effective)
