"""A method at work on a model: its thresholds, its sparsity, its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from st3 import parametrization, scopes
from st3.layers import Prunable, prunable_layers
from st3.parametrization import Effective
from st3.patterns import CHANNEL, Pattern, reject
from st3.plan import SparsityPlan
from st3.policy import Policy, Site

DENSE = "dense"

MakePolicy = Callable[[SparsityPlan, list[Site]], Policy]
MakeState = Callable[[SparsityPlan, dict[str, nn.Parameter]], Mapping[str, Mapping[str, Tensor]]]


@final
class Pruner:
    """What a method's ``attach`` gives to a training loop.

    A step is::

        loss.backward()
        pruner.adjust_gradients()       # after unscaling, before clipping
        optimizer.step()
        pruner.step(progress)           # or aim(progress) on the host, then update() in a CUDA graph

    and ``bake`` ends the training. After it the same calls keep the frozen mask while the model is fine-tuned.

    Attributes:
        plan: what was asked for.
        patterns: per prunable layer its pattern and, where it stays dense, the reason.
        weight_decay: for ``parameters()``.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: SparsityPlan,
        effective: Effective | None,
        policy: MakePolicy | None = None,
        state: MakeState | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        """Put the parametrization on every prunable layer, and take the sparsity of progress 0.

        Args:
            model: changed in place; its Parameter objects stay the same.
            plan: pattern, sparsity, scope and schedule.
            effective: the method's formula; ``None`` prunes nothing (the dense method).
            policy: makes what decides the zeros; needed with ``effective``.
            state: makes the method's own buffers and parameters by layer and name, from all the layers' weights.
            weight_decay: of the parameters among these.

        Raises:
            UserError: a method is attached already, or the plan names layers that the model does not have.
        """
        self.plan, self.weight_decay = plan, weight_decay
        self._layers = prunable_layers(model)
        _refuse_unknown(plan, self._layers)
        self.patterns: dict[str, tuple[str, str]] = {}
        for name, layer in self._layers.items():
            reason = "the method is dense" if effective is None else self._reason(name, layer, plan.groups)
            self.patterns[name] = (DENSE if reason else plan.pattern, reason)
        active = {name: layer for name, layer in self._layers.items() if not self.patterns[name][1]}
        weights = {name: parametrization.latent(layer) for name, layer in active.items()}
        states = state(plan, weights) if state and active else {}
        self._masks: dict[str, Tensor] = {}
        self._sites: list[Site] = []
        self._policy: Policy | None = None
        if effective is not None and active:
            assert policy is not None, "what decides the zeros?"
            for name, layer in active.items():
                module = parametrization.put(layer, effective, plan.groups, states.get(name, {}))
                self._sites.append(Site(name, layer, module))
            self._policy = policy(plan, self._sites)
            self.step(0.0)

    def _reason(self, name: str, layer: Prunable, pattern: Pattern) -> str:
        if self.plan.exempts(name):
            return "exempt by the plan"
        named = isinstance(self.plan.scope, dict) and scopes.match(name, self.plan.scope) is not None
        if pattern.kind == CHANNEL and name == list(self._layers)[-1] and not named:
            return "its output channels are the classes: without one the network could not answer it"
        return reject(tuple(layer.weight.shape), pattern)

    def step(self, progress: float) -> None:
        """Recompute the thresholds; call it after every optimiser step.

        It returns nothing, since counting zeros at every step would stall a GPU; ``sparsity`` counts on request.
        After ``bake`` it sets the pruned weights back to zero, so that fine-tuning keeps the frozen mask.

        Args:
            progress: how much of the training is done, in [0, 1]; the plan's schedule is a function of it.
        """
        self.aim(progress)
        self.update()

    @torch.no_grad()
    def aim(self, progress: float) -> None:
        """The host's half of ``step``: writes the schedule's numbers into device scalars and waits for nothing."""
        if self._policy is not None:
            self._policy.aim(progress)

    @torch.no_grad()
    def update(self) -> None:
        """The device's half of ``step``: may be captured in a CUDA graph while ``capturable``."""
        for name, mask in self._masks.items():
            self._layers[name].weight.masked_fill_(~mask, 0.0)
        if self._policy is not None:
            self._policy.update()

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        """What the method does to the gradients, for most nothing: call it after unscaling and before clipping."""
        if self._policy is not None:
            self._policy.adjust_gradients()

    @property
    def capturable(self) -> bool:
        """Whether the next ``adjust_gradients`` and ``update`` may be captured in, or replayed from, a CUDA graph."""
        return self._policy is None or self._policy.capturable

    @property
    @torch.no_grad()
    def threshold(self) -> Tensor:
        """The present global threshold as a scalar tensor; the mean where layers or groups have their own."""
        return self._policy.threshold if self._policy is not None else torch.zeros(())

    def parameters(self) -> list[nn.Parameter]:
        """What the method trains besides the weights; also among the model's own parameters until ``bake``."""
        return [parameter for site in self._sites for parameter in site.module.parameters()]

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

        The model computes the same bits as before, and its modules are plain ones of ``torch.nn`` again.
        Called again, it takes the frozen mask from the weights as they are now: do so after loading the state of a
        model that was baked and is being fine-tuned.
        """
        for site in self._sites:
            parametrization.remove(site.layer)
        for name in [site.name for site in self._sites] or list(self._masks):
            self._masks[name] = self._layers[name].weight.detach() != 0
        self._sites, self._policy = [], None


def _refuse_unknown(plan: SparsityPlan, layers: Mapping[str, Prunable]) -> None:
    scopes.refuse_unknown(plan.exempt, layers, "the plan's exempt")
    if isinstance(plan.scope, dict):
        scopes.refuse_unknown(plan.scope, layers, "the plan's scope")
