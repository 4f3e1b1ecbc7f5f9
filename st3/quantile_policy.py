"""The threshold as a quantile of scores: over all layers together, or in each layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from st3 import scopes
from st3.parametrization import SparseWeight
from st3.plan import SparsityPlan
from st3.policy import Policy, Site, device_of, memory_order, pattern_of
from st3.scopes import layer_sparsities
from st3.thresholds import Segments, quantiles

Width = Callable[[SparseWeight], Tensor]
"""What a layer's scores are divided by before layers are compared, if the method trains it: a scalar."""


@final
class QuantilePolicy(Policy):
    """One threshold for all layers (scope ``global``), or one for each, taken anew at every step.

    Layers may be compared by scores that are divided by a width. A fixed one is undone in the layer's threshold; a
    trained one is left to the effective weight, whose gradient needs it.
    """

    def __init__(
        self,
        plan: SparsityPlan,
        sites: list[Site],
        widths: Callable[[tuple[int, ...]], float] | None = None,
        trained: Width | None = None,
    ) -> None:
        """Make the policy; ``widths`` gives fixed widths by the weight's shape, ``trained`` trained ones."""
        self._plan, self._sites, self._trained = plan, sites, trained
        self._shapes = {site.name: tuple(site.weight.shape) for site in sites}
        self._lengths = tuple(site.weight.numel() for site in sites)
        self._whole = plan.scope == scopes.GLOBAL
        self._widths = [widths(shape) for shape in self._shapes.values()] if widths else None
        if self._whole:
            self._targets = [plan.target]
        else:
            assert widths is None, "a width compares layers, of which each has its own threshold here"
            assert trained is None, "as above"
            self._targets = list(layer_sparsities(plan.scope, plan.target, self._shapes).values())
        self._place()

    def _place(self) -> None:
        device = device_of(self._sites)
        self._ramp = torch.zeros((), dtype=torch.float64, device=device)
        self._wanted = torch.tensor(self._targets, dtype=torch.float64, device=device)
        self._factors = torch.tensor(self._widths or [1.0] * len(self._sites), device=device)
        self._levels = torch.zeros(len(self._targets), device=device)
        self._segments = Segments((sum(self._lengths),) if self._whole else self._lengths, device)

    def aim(self, progress: float) -> None:
        """Set how far the sparsity has come."""
        if self._ramp.device != device_of(self._sites):
            self._place()
        self._ramp.fill_(self._plan.ramp(progress))

    def update(self) -> None:
        """Take the quantiles of the present weights."""
        fractions = self._wanted * self._ramp
        found = quantiles(self._scores(), fractions, self._segments, pattern_of(self._sites).grouped)
        # sparsity 0 is dense: the quantile would be the smallest magnitude and prune that weight
        self._levels.copy_(torch.where(fractions > 0, found, 0.0))
        limits = self._levels * self._factors
        torch._foreach_copy_([site.module.threshold for site in self._sites], list(limits.unbind()))

    def _scores(self) -> Tensor:
        """All scores in one vector, each as often as its group has weights, so that sparsity counts weights."""
        pattern = pattern_of(self._sites)
        if pattern.grouped:
            scores = [site.module.score(site.weight).expand_as(site.weight) for site in self._sites]
            flat = torch.cat([score.reshape(-1) for score in scores]).float()
        else:
            flat = torch.cat([memory_order(site.weight) for site in self._sites]).float().abs_()
        parts = flat.split_with_sizes(self._lengths)
        if self._widths is not None:
            torch._foreach_div_(parts, self._widths)
        if self._trained is not None:
            for part, site in zip(parts, self._sites, strict=True):
                part.div_(self._trained(site.module))
        return flat

    def adjust_gradients(self) -> None:
        """Nothing: the gradient's way is the effective weight's own."""

    @property
    def capturable(self) -> bool:
        """Always."""
        return True

    @property
    def threshold(self) -> Tensor:
        """The global level (before widths), or the mean over the layers'."""
        return self._levels.mean()
