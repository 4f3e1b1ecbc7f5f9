"""A method at work on a model: its thresholds, its sparsity, its end."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from runtime.errors import UserError
from st3 import parametrization
from st3.layers import Prunable, prunable_layers
from st3.parametrization import Effective, SparseWeight
from st3.patterns import group_threshold, parse_pattern, reject
from st3.plan import SparsityPlan
from st3.thresholds import quantile

DENSE = "dense"


@final
class Pruner:
    """Made by a method's ``attach``; the loop calls ``step`` after every optimiser step and ``bake`` at the end.

    Attributes:
        plan: what was asked for.
        patterns: per prunable layer its pattern and, where it stays dense, the reason.
        threshold: the last global threshold as a scalar tensor; for N:M the mean over all groups.
        weight_decay: of ``parameters``.
    """

    weight_decay = 0.0

    def __init__(
        self,
        model: nn.Module,
        plan: SparsityPlan,
        effective: Effective | None,
        width: Callable[[tuple[int, ...]], float] | None = None,
    ) -> None:
        """Put the parametrization on every prunable layer.

        Args:
            model: changed in place; its Parameter objects stay the same.
            plan: pattern, sparsity and schedule.
            effective: the method's formula; ``None`` prunes nothing (the dense method).
            width: divides a layer's magnitudes before they are compared with other layers', by the weight's shape.
        """
        self.plan = plan
        self.patterns: dict[str, tuple[str, str]] = {}
        self.threshold = torch.zeros(())
        self._groups = parse_pattern(plan.pattern)
        self._layers = prunable_layers(model)
        for pattern in plan.exempt:
            if not fnmatch.filter(self._layers, pattern):
                near = difflib.get_close_matches(pattern, self._layers, n=5) or list(self._layers)[:5]
                raise UserError(f"exempt {pattern!r} fits no layer of the model; near it are {', '.join(near)}")
        self._active: dict[str, SparseWeight] = {}
        self._masks: dict[str, Tensor] = {}
        self._width = width
        self._ramp = 0.0
        self._below: Tensor | None = None
        for name, layer in self._layers.items():
            reason = self._reason(name, layer, effective)
            self.patterns[name] = (DENSE if reason else plan.pattern, reason)
            if not reason and effective is not None:
                self._active[name] = parametrization.put(layer, effective, self._groups is not None)

    def _reason(self, name: str, layer: Prunable, effective: Effective | None) -> str:
        if effective is None:
            return "the method is dense"
        if self.plan.exempts(name):
            return "exempt by the plan"
        return reject(tuple(layer.weight.shape), self._groups)

    @property
    def capturable(self) -> bool:
        """Whether the step that was last aimed at may be captured in a CUDA graph."""
        return True

    def parameters(self) -> list[nn.Parameter]:
        """Parameters that the method brings of its own."""
        return []

    def adjust_gradients(self) -> None:
        """Change the gradients after the backward pass, before they are clipped."""

    def step(self, progress: float) -> None:
        """Recompute the thresholds; call it after every optimiser step.

        It returns nothing, since counting zeros at every step would stall a GPU; ``sparsity`` counts on request.
        After ``bake`` it sets the pruned weights back to zero, so that fine-tuning keeps the frozen mask.

        Args:
            progress: how much of the training is done, in [0, 1]; the plan's schedule is a function of it.
        """
        self.aim(progress)
        self.update()

    def aim(self, progress: float) -> None:
        """Bring the numbers of one step to the device."""
        ramp = self.plan.ramp(progress)
        self._ramp = ramp
        if self._active and self._groups is None:
            device = parametrization.latent(self._layers[next(iter(self._active))]).device
            total = sum(parametrization.latent(self._layers[name]).numel() for name in self._active)
            position = ramp * self.plan.target * (total - 1)
            below = math.floor(position)
            if self._below is None:
                self._below = torch.zeros((), dtype=torch.int64, device=device)
                self._part, self._on = torch.zeros(2, device=device)
            self._below.fill_(below)
            self._part.fill_(position - below)
            self._on.fill_(float(position > 0))

    @torch.no_grad()
    def update(self) -> None:
        """Recompute the thresholds, on the device alone."""
        for name, mask in self._masks.items():
            self._layers[name].weight.masked_fill_(~mask, 0.0)
        if not self._active:
            return
        if self._groups is None:
            self._step_global(self._ramp * self.plan.target)
        else:
            self._step_groups(self._ramp)

    def _step_global(self, sparsity: float) -> None:
        weights = {name: parametrization.latent(self._layers[name]) for name in self._active}
        widths = {name: self._width(tuple(weight.shape)) if self._width else 1.0 for name, weight in weights.items()}
        flat = torch.cat([(weight.abs() / widths[name]).flatten() for name, weight in weights.items()])
        # sparsity 0 is dense: the quantile would be the smallest magnitude and prune that weight
        if flat.is_cuda:
            assert self._below is not None
            ordered = flat.sort().values
            low, high = ordered[self._below], ordered[torch.add(self._below, 1).clamp_max(len(ordered) - 1)]
            self.threshold = torch.lerp(low, high, self._part) * self._on
        else:
            self.threshold = quantile(flat, sparsity) if sparsity > 0 else flat.new_zeros(())
        for name, module in self._active.items():
            module.threshold.copy_(self.threshold * widths[name])

    def _step_groups(self, ramp: float) -> None:
        assert self._groups is not None
        for name, module in self._active.items():
            module.threshold.copy_(group_threshold(parametrization.latent(self._layers[name]), self._groups) * ramp)
        self.threshold = torch.stack([module.threshold.mean() for module in self._active.values()]).mean()

    @torch.no_grad()
    def sparsity(self) -> dict[str, float]:
        """Fraction of zeros in each prunable layer's effective weight."""
        return {name: float((layer.weight == 0).float().mean()) for name, layer in self._layers.items()}

    @torch.no_grad()
    def total_sparsity(self) -> float:
        """Fraction of zeros over all prunable weights."""
        zeros = sum(int((layer.weight == 0).sum()) for layer in self._layers.values())
        return zeros / max(1, sum(layer.weight.numel() for layer in self._layers.values()))

    def bake(self) -> None:
        """Overwrite every latent weight by its effective weight and remove the parametrizations.

        The model computes the same bits as before, and its layers are plain ``nn.Conv2d`` and ``nn.Linear`` again.
        """
        for name in self._active:
            layer = self._layers[name]
            parametrization.remove(layer)
            self._masks[name] = layer.weight.detach() != 0
        self._active = {}
