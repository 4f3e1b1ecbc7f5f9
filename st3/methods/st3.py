"""ST-3: soft threshold, channel scale and straight-through gradient (arXiv 2212.01076)."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn

from st3 import patterns, scopes
from st3.formulas import channel_scale, keep_mask, soft_threshold, soft_threshold_of_groups, straight_through
from st3.magnitude import magnitude_policy
from st3.parametrization import SparseWeight
from st3.patterns import CHANNEL, UNSTRUCTURED
from st3.plan import SparsityPlan
from st3.pruner import Pruner

PATTERNS = patterns.KINDS
SCOPES = scopes.KINDS
_TRITON = importlib.util.find_spec("triton") is not None


def effective(weight: Tensor, state: SparseWeight) -> Tensor:
    """``s_c sign(w) (|w| - T)+``; the gradient reaches every latent weight, pruned ones too, unchanged."""
    return straight_through(pruned(weight.detach(), state), weight)


def pruned(weight: Tensor, state: SparseWeight) -> Tensor:
    """The value of the effective weight.

    Whole channels get no scale: it stands in for what an output channel has lost, and one that is kept has lost
    nothing. The formula agrees, as it gives a whole channel ``1.01 / (1 + 0.01)``; it does not undo the shrinkage
    ``1 - T / a``, so a channel fades in from zero. A batch normalisation behind it takes the rest.
    """
    limit = state.limit(weight)
    if weight.is_cuda and _TRITON and state.pattern.kind == UNSTRUCTURED and not torch.compiler.is_compiling():
        from st3 import gpu_effective

        if gpu_effective.suits(weight):
            return gpu_effective.scaled_soft_threshold(weight, limit)
    if state.pattern.kind == CHANNEL:
        return soft_threshold_of_groups(weight, state.score(weight), limit)
    magnitude = weight.abs()
    if state.pattern.grouped:
        score = state.score(weight)
        soft = soft_threshold_of_groups(weight, score, limit)
    else:
        score = magnitude
        soft = soft_threshold(weight, limit)
    return channel_scale(magnitude, keep_mask(score, limit), limit) * soft


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """One threshold for all layers; other scopes take one for each, and an N:M pattern one for each group."""
    return Pruner(model, plan, effective, magnitude_policy)
