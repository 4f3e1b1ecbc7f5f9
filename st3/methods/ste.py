"""Hard threshold with a straight-through gradient: ST-3 without the soft threshold and the scale."""

from __future__ import annotations

from torch import Tensor, nn

from st3 import patterns, scopes
from st3.formulas import hard_threshold, straight_through
from st3.magnitude import magnitude_policy
from st3.parametrization import SparseWeight
from st3.plan import SparsityPlan
from st3.pruner import Pruner

PATTERNS = patterns.KINDS
SCOPES = scopes.KINDS


def effective(weight: Tensor, state: SparseWeight) -> Tensor:
    """``w`` above the threshold, zero elsewhere; the gradient reaches every latent weight unchanged."""
    latent = weight.detach()
    return straight_through(hard_threshold(latent, state.score(latent), state.limit(latent)), weight)


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """The threshold is ST-3's, taken anew at every step."""
    return Pruner(model, plan, effective, magnitude_policy)
