"""Feather (Georgoulakis, Retsinas and Maragos, BMVC 2023, arXiv 2310.02448): powered threshold, damped gradient.

The threshold lies between soft and hard, there is no scale, and what pruned weights get of the gradient is multiplied
by theta. Threshold and schedule are ST-3's.
"""

from __future__ import annotations

from torch import Tensor, nn

from st3 import patterns, scopes
from st3.formulas import damped_straight_through, keep_mask, powered_threshold, straight_through
from st3.magnitude import magnitude_policy
from st3.parametrization import Effective, SparseWeight
from st3.plan import SparsityPlan
from st3.pruner import Pruner

PATTERNS = patterns.KINDS
SCOPES = scopes.KINDS
HIGH_SPARSITY = 0.95


def theta(sparsity: float) -> float:
    """The factor on the gradients of pruned weights: 1, and 0.5 above a target of 95 %."""
    return 0.5 if sparsity > HIGH_SPARSITY else 1.0


def effective_with(factor: float) -> Effective:
    """The effective weight ``sign(w) (|w|^3 - T^3)+^(1/3)``, whose pruned weights get ``factor`` of the gradient."""

    def effective(weight: Tensor, state: SparseWeight) -> Tensor:
        latent = weight.detach()
        score, limit = state.score(latent), state.limit(latent)
        value = powered_threshold(latent, score, limit)
        if factor == 1:
            return straight_through(value, weight)
        return damped_straight_through(value, weight, keep_mask(score, limit), factor)

    return effective


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """Theta follows from the sparsity that the plan ends with, and is the same during the whole training."""
    return Pruner(model, plan, effective_with(theta(plan.target)), magnitude_policy)
