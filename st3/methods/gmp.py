"""Gradual magnitude pruning (Zhu and Gupta 2017, arXiv 1710.01878): hard threshold, masked gradient."""

from __future__ import annotations

from torch import Tensor, nn

from st3 import patterns, scopes
from st3.formulas import hard_threshold
from st3.magnitude import magnitude_policy
from st3.parametrization import SparseWeight
from st3.plan import SparsityPlan
from st3.pruner import Pruner

PATTERNS = patterns.KINDS
SCOPES = scopes.KINDS


def effective(weight: Tensor, state: SparseWeight) -> Tensor:
    """``w`` above the threshold, zero elsewhere; the mask multiplies the gradient too."""
    return hard_threshold(weight, state.score(weight.detach()), state.limit(weight))


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """The mask multiplies the weight forward and its gradient backward.

    A pruned weight gets no gradient and stays where it is, up to momentum and weight decay; it comes back only when
    the threshold falls below it. The threshold is ST-3's, taken anew at every step.
    """
    return Pruner(model, plan, effective, magnitude_policy)
