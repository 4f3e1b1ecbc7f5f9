"""ST-3-sigma: ST-3 with magnitudes divided by each layer's width, which spreads the zeros more evenly over layers.

An N:M threshold is taken per group and compares nothing across layers; there it is the same as ST-3.
"""

from __future__ import annotations

from torch import nn

from st3 import patterns, scopes
from st3.group_policy import GroupPolicy
from st3.methods.st3 import effective
from st3.plan import SparsityPlan
from st3.policy import Policy, Site
from st3.pruner import Pruner
from st3.quantile_policy import QuantilePolicy
from st3.thresholds import sigma

PATTERNS = patterns.KINDS
SCOPES = (scopes.GLOBAL,)
"""A width compares layers; where each layer has its own threshold it would change nothing."""


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """Quantile of ``|w| / sigma_l`` over all layers; layer l gets the threshold ``T sigma_l``."""
    return Pruner(model, plan, effective, _policy)


def _policy(plan: SparsityPlan, sites: list[Site]) -> Policy:
    if plan.groups.kind == "N:M":
        return GroupPolicy(plan, sites)
    return QuantilePolicy(plan, sites, widths=sigma)
