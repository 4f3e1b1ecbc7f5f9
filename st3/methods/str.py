"""STR: soft threshold reparametrization with a learned threshold per layer (Kusupati et al., ICML 2020).

In the paper layer l has the threshold ``g(s_l)`` with g the sigmoid (equation 4), trained like the weights, and the
sparsity is an outcome that weight decay on ``s_l`` drives. A comparison at a given sparsity needs a target, so here
the learned values only share the zeros out: ``T_l = tau g(s_l)``, where tau is the quantile of ``|w| / g(s_l)`` over
all layers, a constant to the gradient. As only the ratios of the ``g(s_l)`` matter, decay would pull them together
and drive nothing: there is none. All ``s_l`` begin at 0, which is one global threshold.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from st3 import patterns, scopes
from st3.formulas import keep_mask, soft_threshold
from st3.parametrization import SparseWeight
from st3.plan import SparsityPlan
from st3.policy import Policy, Site
from st3.pruner import Pruner
from st3.quantile_policy import QuantilePolicy

PATTERNS = (patterns.UNSTRUCTURED,)
SCOPES = (scopes.GLOBAL,)
"""What the layers get is what the method learns."""


def effective(weight: Tensor, state: SparseWeight) -> Tensor:
    """``sign(w) (|w| - tau g(s))+`` (equation 3): pruned weights get no gradient, and ``s`` that of its threshold."""
    limit = state.threshold * _width(state)
    # at |w| = T the soft threshold's own gradient is shared by both sides; the mask leaves none, as in the paper
    return torch.where(keep_mask(weight.detach().abs(), limit), soft_threshold(weight, limit), 0.0)


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """The thresholds ``s_l`` are in ``Pruner.parameters()``."""
    return Pruner(model, plan, effective, _policy, _state)


def _policy(plan: SparsityPlan, sites: list[Site]) -> Policy:
    return QuantilePolicy(plan, sites, trained=_width)


def _width(state: SparseWeight) -> Tensor:
    level = state.level
    assert isinstance(level, Tensor)
    return level.sigmoid()


def _state(plan: SparsityPlan, weights: dict[str, nn.Parameter]) -> Mapping[str, Mapping[str, Tensor]]:
    del plan
    return {name: {"level": nn.Parameter(torch.zeros_like(weight[:1].sum()))} for name, weight in weights.items()}
