"""SR-STE: a hard N:M mask with a straight-through gradient that decays the pruned weights (Zhou et al., ICLR 2021)."""

from __future__ import annotations

from torch import nn

from st3 import scopes
from st3.group_policy import GroupPolicy
from st3.methods.ste import effective
from st3.plan import SparsityPlan
from st3.policy import Policy, Site
from st3.pruner import Pruner

PATTERNS = ("N:M",)
SCOPES = (scopes.GLOBAL,)
DECAY = 2e-4
"""The paper's lambda."""


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """The gradient is ``g + lambda (1 - m) w`` (equation 9); the pattern holds from the first step, as in the paper."""
    return Pruner(model, plan, effective, _policy)


def _policy(plan: SparsityPlan, sites: list[Site]) -> Policy:
    return GroupPolicy(plan, sites, ramped=False, decay=DECAY)
