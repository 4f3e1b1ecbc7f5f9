"""S-STE: continuous N:M pruning with one frozen scale per weight (Hu et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from st3 import scopes
from st3.formulas import least_squares_scale, soft_threshold, straight_through
from st3.group_policy import GroupPolicy
from st3.parametrization import SparseWeight
from st3.patterns import group_limit, spread
from st3.plan import SparsityPlan
from st3.policy import Policy, Site
from st3.pruner import Pruner

PATTERNS = ("N:M",)
SCOPES = (scopes.GLOBAL,)


def effective(weight: Tensor, state: SparseWeight) -> Tensor:
    """``beta sign(w) (|w| - T)+`` with the group's own T; the gradient reaches every latent weight unchanged."""
    latent, scale = weight.detach(), state.scale
    assert isinstance(scale, Tensor)
    return straight_through(scale * soft_threshold(latent, state.limit(latent)), weight)


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """The pattern holds from the first step; beta is taken from the weights as they are now, and stays."""
    return Pruner(model, plan, effective, _policy, _state)


def _policy(plan: SparsityPlan, sites: list[Site]) -> Policy:
    return GroupPolicy(plan, sites, ramped=False)


@torch.no_grad()
def _state(plan: SparsityPlan, weights: dict[str, nn.Parameter]) -> Mapping[str, Mapping[str, Tensor]]:
    def scale(weight: Tensor) -> Tensor:
        limit = spread(group_limit(weight, plan.groups), tuple(weight.shape), plan.groups)
        return least_squares_scale(weight, soft_threshold(weight, limit))

    return {name: {"scale": scale(weight.detach())} for name, weight in weights.items()}
