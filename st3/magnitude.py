"""The policy of methods that prune the smallest magnitudes: a quantile, or for an N:M pattern one limit per group."""

from __future__ import annotations

from st3.group_policy import GroupPolicy
from st3.plan import SparsityPlan
from st3.policy import Policy, Site
from st3.quantile_policy import QuantilePolicy


def magnitude_policy(plan: SparsityPlan, sites: list[Site]) -> Policy:
    """One threshold for all layers or for each, as the scope says; for an N:M pattern one for each group."""
    if plan.groups.kind == "N:M":
        return GroupPolicy(plan, sites)
    return QuantilePolicy(plan, sites)
