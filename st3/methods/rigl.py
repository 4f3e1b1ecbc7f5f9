"""RigL: a sparse network from the start, which drops small weights and grows where the gradient is large.

Evci et al., ICML 2020 (arXiv 1911.11134): Erdos-Renyi-Kernel densities, drop by magnitude and grow by the dense
gradient at fixed intervals, each time the fraction ``alpha / 2 (1 + cos(pi t / T_end))`` (equation 1) of a layer's
weights, grown ones from zero. Two deviations. The first mask holds the largest of the initial weights rather than
random ones, so that it needs no random numbers, is the same on every rank, and suits a model that is trained already.
The interval is a hundredth of the training (the paper: 100 steps of 32,000), and the exchange comes one step later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from st3 import patterns, scopes
from st3.formulas import straight_through
from st3.parametrization import SparseWeight
from st3.plan import SparsityPlan
from st3.policy import Policy, Site
from st3.pruner import Pruner
from st3.scopes import layer_sparsities, whole_counts
from st3.thresholds import top_mask

PATTERNS = (patterns.UNSTRUCTURED,)
SCOPES = scopes.KINDS
"""A layer's density never changes, so there is no global threshold: ``global`` stands for ``erk``, RigL's own way."""

ALPHA = 0.3
END = 0.75
UPDATES = 100
"""Intervals in the whole training; the last updates fall away with ``END``."""


def effective(weight: Tensor, state: SparseWeight) -> Tensor:
    """The weight where the mask keeps it; the gradient arrives dense, for the growth to choose from."""
    latent, kept = weight.detach(), state.kept
    assert isinstance(kept, Tensor)
    return straight_through(torch.where(kept, latent, 0.0), weight)


def attach(model: nn.Module, plan: SparsityPlan) -> Pruner:
    """Sparse from now on; the plan's ``begin`` and ``end`` do not apply."""
    return Pruner(model, plan, effective, _Topology, _state)


def fraction(progress: float) -> float:
    """Which part of a layer's weights is exchanged (equation 1)."""
    return ALPHA / 2 * (1 + math.cos(math.pi * progress / END)) if progress < END else 0.0


def kept_counts(plan: SparsityPlan, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """How many weights each layer keeps; the sum is what the plan asks for to within half a weight."""
    scope = scopes.ERK if plan.scope == scopes.GLOBAL else plan.scope
    sparsities = layer_sparsities(scope, plan.target, shapes)
    shares = {name: (1 - sparsities[name]) * math.prod(shape) for name, shape in shapes.items()}
    return whole_counts(shares, round(sum(shares.values())))


@final
class _Topology(Policy):
    """Keeps the masks, which are buffers; so is the clock, whose copy on the host follows a loaded state."""

    def __init__(self, plan: SparsityPlan, sites: list[Site]) -> None:
        self._sites = sites
        self._counts = kept_counts(plan, {site.name: tuple(site.weight.shape) for site in sites})
        self._dense: dict[str, Tensor] = {}
        self._progress, self._asked, self._due = 0.0, False, False
        sites[0].module.register_load_state_dict_post_hook(self._read_clock)  # type: ignore[no-untyped-call]

    def _read_clock(self, module: nn.Module, keys: Any) -> None:
        del keys
        assert isinstance(module.clock, Tensor)
        progress, asked = module.clock.tolist()
        self._progress, self._asked, self._due = progress, bool(asked), False

    def aim(self, progress: float) -> None:
        """Exchange weights at this step if the last one asked for it, and ask at the end of an interval."""
        self._due = self._asked
        self._asked = progress < END and math.floor(progress * UPDATES) > math.floor(self._progress * UPDATES)
        self._progress = progress
        clock = self._sites[0].module.clock
        assert isinstance(clock, Tensor)
        clock[0].fill_(progress)
        clock[1].fill_(float(self._asked))

    def adjust_gradients(self) -> None:
        """Hide the gradients of weights that are not there, and set them aside if they are asked for."""
        for site in self._sites:
            gradient = site.weight.grad
            if gradient is not None:
                if self._asked:
                    self._dense[site.name] = gradient.clone()
                gradient.masked_fill_(~_mask(site), 0.0)

    def update(self) -> None:
        """Exchange weights if it is time, and set to zero what momentum has moved."""
        for site in self._sites:
            # without adjust_gradients the gradient itself is still dense
            gradient = self._dense.pop(site.name, site.weight.grad)
            if self._due and gradient is not None:
                self._exchange(site, gradient)
            site.weight.masked_fill_(~_mask(site), 0.0)
        self._due = False

    def _exchange(self, site: Site, gradient: Tensor) -> None:
        mask, weight, count = _mask(site), site.weight, self._counts[site.name]
        exchanged = min(round(fraction(self._progress) * count), weight.numel() - count)
        survivors = top_mask(torch.where(mask, weight.abs(), -1.0), count - exchanged)
        grown = top_mask(torch.where(survivors, -1.0, gradient.abs()), exchanged)
        weight.masked_fill_(grown & ~mask, 0.0)
        mask.copy_(survivors | grown)

    @property
    def capturable(self) -> bool:
        """Not at the step that sorts and exchanges weights."""
        return not (self._asked or self._due)

    @property
    def threshold(self) -> Tensor:
        """RigL has none: 0."""
        return torch.zeros((), device=self._sites[0].weight.device)


def _mask(site: Site) -> Tensor:
    kept = site.module.kept
    assert isinstance(kept, Tensor)
    return kept


@torch.no_grad()
def _state(plan: SparsityPlan, weights: dict[str, nn.Parameter]) -> Mapping[str, Mapping[str, Tensor]]:
    counts = kept_counts(plan, {name: tuple(weight.shape) for name, weight in weights.items()})
    states = {name: {"kept": top_mask(weight.abs(), counts[name])} for name, weight in weights.items()}
    first = next(iter(weights))
    states[first]["clock"] = torch.zeros(2, dtype=torch.float64, device=weights[first].device)
    return states
