"""The threshold of an N:M pattern: for every group of M its own."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from st3.patterns import group_limit
from st3.plan import SparsityPlan
from st3.policy import Policy, Site, device_of, pattern_of


@final
class GroupPolicy(Policy):
    """The (N+1)-th largest magnitude of each group, taken anew at every step."""

    def __init__(self, plan: SparsityPlan, sites: list[Site], ramped: bool = True, decay: float = 0.0) -> None:
        """Make the policy.

        Args:
            plan: its schedule, and its pattern ``N:M``.
            sites: the layers.
            ramped: the threshold grows from 0 along the schedule; otherwise the pattern holds from the first step.
            decay: what ``adjust_gradients`` adds of the pruned weights (SR-STE's lambda).
        """
        self._plan, self._sites, self._ramped, self._decay = plan, sites, ramped, decay
        self._ramp = torch.zeros((), dtype=torch.float64, device=device_of(sites))

    def aim(self, progress: float) -> None:
        """Set how far the thresholds have come."""
        if self._ramp.device != device_of(self._sites):
            self._ramp = self._ramp.to(device_of(self._sites))
        self._ramp.fill_(self._plan.ramp(progress) if self._ramped else 1.0)

    def update(self) -> None:
        """Take the groups' order statistics of the present weights."""
        for site in self._sites:
            site.module.threshold.copy_(group_limit(site.weight, pattern_of(self._sites)) * self._ramp)

    def adjust_gradients(self) -> None:
        """Add ``decay (1 - m) w`` (SR-STE, equation 9); the mask is the one that the forward pass has used."""
        if not self._decay:
            return
        for site in self._sites:
            weight = site.weight
            if weight.grad is not None:
                kept = site.module.score(weight) > site.module.limit(weight)
                weight.grad.add_(torch.where(kept, 0.0, weight), alpha=self._decay)

    @property
    def capturable(self) -> bool:
        """Always."""
        return True

    @property
    def threshold(self) -> Tensor:
        """The mean over the layers' means."""
        return torch.stack([site.module.threshold.mean() for site in self._sites]).mean()
