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

Width = Callable[[SparseWeight, tuple[int, ...]], float | Tensor]
"""What a layer's scores are divided by before layers are compared, by its state and its weight's shape."""


@final
class QuantilePolicy(Policy):
    """One threshold for all layers (scope ``global``), or one for each, taken anew at every step."""

    def __init__(self, plan: SparsityPlan, sites: list[Site], width: Width | None = None) -> None:
        self._plan, self._sites, self._width = plan, sites, width
        self._shapes = {site.name: tuple(site.weight.shape) for site in sites}
        self._lengths = tuple(site.weight.numel() for site in sites)
        self._whole = plan.scope == scopes.GLOBAL
        if self._whole:
            self._targets = [plan.target]
        else:
            assert width is None, "a width compares layers, of which each has its own threshold here"
            self._targets = list(layer_sparsities(plan.scope, plan.target, self._shapes).values())
        self._place()

    def _place(self) -> None:
        device = device_of(self._sites)
        self._ramp = torch.zeros((), dtype=torch.float64, device=device)
        self._wanted = torch.tensor(self._targets, dtype=torch.float64, device=device)
        self._levels = torch.zeros(len(self._targets), device=device)
        self._segments = Segments((sum(self._lengths),) if self._whole else self._lengths, device)

    def aim(self, progress: float) -> None:
        """Set how far the sparsity has come."""
        if self._ramp.device != device_of(self._sites):
            self._place()
        self._ramp.fill_(self._plan.ramp(progress))

    def update(self) -> None:
        """Take the quantiles of the present weights."""
        widths = [self._width(site.module, self._shapes[site.name]) for site in self._sites] if self._width else None
        fractions = self._wanted * self._ramp
        found = quantiles(self._magnitudes(widths), fractions, self._segments, pattern_of(self._sites).grouped)
        # sparsity 0 is dense: the quantile would be the smallest magnitude and prune that weight
        self._levels.copy_(torch.where(fractions > 0, found, 0.0))
        if self._whole:
            levels = [self._levels[0]] * len(self._sites)
        else:
            levels = list(self._levels.unbind())
        if self._width and widths is not None and not isinstance(widths[0], Tensor):
            levels = [level * width for level, width in zip(levels, widths, strict=True)]
        torch._foreach_copy_([site.module.threshold for site in self._sites], levels)

    def _magnitudes(self, widths: list[float | Tensor] | None) -> Tensor:
        """All scores in one vector, each as often as its group has weights, so that sparsity counts weights."""
        pattern = pattern_of(self._sites)
        if pattern.grouped:
            scores = [site.module.score(site.weight).expand_as(site.weight) for site in self._sites]
            flat = torch.cat([score.reshape(-1) for score in scores]).float()
        else:
            flat = torch.cat([memory_order(site.weight) for site in self._sites]).float().abs_()
        if widths is not None:
            torch._foreach_div_(list(flat.split(self._lengths)), widths)
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
