"""The torch parametrization that turns a layer's latent weight into its effective weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from runtime.errors import UserError
from st3 import patterns
from st3.layers import Prunable
from st3.patterns import Pattern


@final
class SparseWeight(nn.Module):
    """Sits on a layer's weight; its state is in buffers, so ``state_dict`` holds all that training needs.

    Attributes:
        pattern: what the layer takes.
        threshold: scalar, or for N:M one for each group (``patterns.limits_shape``); 0 means dense.
    """

    threshold: Tensor

    def __init__(self, weight: Tensor, effective: Effective, pattern: Pattern, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.pattern = pattern
        shape = patterns.limits_shape(tuple(weight.shape), pattern)
        self.register_buffer("threshold", torch.zeros(shape, dtype=weight.dtype, device=weight.device))
        for name, value in state.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)
        self._effective = effective

    def forward(self, weight: Tensor) -> Tensor:
        """Effective weight of a latent one; no Python branch looks at a tensor, so it compiles and exports."""
        return self._effective(weight, self)

    def score(self, weight: Tensor) -> Tensor:
        """What is compared with ``limit``: magnitudes, or the mean magnitudes of groups."""
        return patterns.score(weight, self.pattern)

    def limit(self, weight: Tensor) -> Tensor:
        """The threshold in a shape that can be compared with the score."""
        return patterns.spread(self.threshold, tuple(weight.shape), self.pattern)


Effective: TypeAlias = Callable[[Tensor, SparseWeight], Tensor]
"""From latent weight and the layer's state to the effective weight; its gradient is the method's choice."""


def parametrized(layer: Prunable) -> bool:
    """Whether the layer's weight has a parametrization, ours or another."""
    return parametrize.is_parametrized(layer.module, layer.leaf)


def put(layer: Prunable, effective: Effective, pattern: Pattern, state: Mapping[str, Tensor]) -> SparseWeight:
    """Put a parametrization on a layer; its Parameter object stays, so an optimiser made before still trains it.

    Args:
        layer: changed in place.
        effective: the method's formula.
        pattern: what the layer takes.
        state: the method's own buffers and parameters for this layer, by name.

    Raises:
        UserError: the weight already has one.
    """
    if parametrized(layer):
        raise UserError("a method is already attached to this model; bake it first, or build the model anew")
    module = SparseWeight(layer.weight, effective, pattern, state)
    # unsafe: skips a trial run that only compares shapes, which a pruned weight keeps by construction
    parametrize.register_parametrization(layer.module, layer.leaf, module, unsafe=True)
    return module


def latent(layer: Prunable) -> nn.Parameter:
    """The weight that the optimiser trains."""
    owner = f"parametrizations.{layer.leaf}.original" if parametrized(layer) else layer.leaf
    return layer.module.get_parameter(owner)


def remove(layer: Prunable) -> None:
    """Overwrite the latent weight by the effective one, in the same Parameter, and remove the parametrization."""
    parametrize.remove_parametrizations(layer.module, layer.leaf, leave_parametrized=True)
