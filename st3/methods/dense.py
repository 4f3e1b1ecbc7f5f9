"""Dense training: the null method, which prunes nothing."""

from __future__ import annotations

from torch import nn

from runtime.errors import UserError
from st3 import patterns, scopes
from st3.plan import SparsityPlan
from st3.pruner import Pruner

PATTERNS = patterns.KINDS
SCOPES = scopes.KINDS


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """Leave every weight as it is.

    Raises:
        UserError: the plan asks for zeros.
    """
    wanted = max([plan.target, *(plan.scope.values() if isinstance(plan.scope, dict) else ())])
    if wanted > 0:
        raise UserError(f"the method dense prunes nothing, but sparsity {wanted:g} was asked for; choose another")
    return Pruner(model, plan, effective=None)
