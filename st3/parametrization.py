"""The torch parametrization that turns a layer's latent weight into its effective weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from runtime.errors import UserError
from st3.layers import Prunable

Effective: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From latent weight and threshold to effective weight; its gradient is the method's choice."""


@final
class SparseWeight(nn.Module):
    """Sits on a layer's ``weight``; the threshold is a buffer, so ``state_dict`` holds all that training needs.

    Attributes:
        threshold: scalar for an unstructured pattern, shape of the weight for N:M; 0 means dense.
    """

    threshold: Tensor

    def __init__(self, weight: Tensor, effective: Effective, per_weight: bool) -> None:
        super().__init__()
        shape = weight.shape if per_weight else ()
        self.register_buffer("threshold", torch.zeros(shape, dtype=weight.dtype, device=weight.device))
        self._effective = effective

    def forward(self, weight: Tensor) -> Tensor:
        """Effective weight of a latent one; no Python branch looks at a tensor, so it compiles and exports."""
        return self._effective(weight, self.threshold)


def parametrized(layer: Prunable) -> bool:
    """Whether the layer's weight has a parametrization, ours or another."""
    return parametrize.is_parametrized(layer, "weight")


def put(layer: Prunable, effective: Effective, per_weight: bool) -> SparseWeight:
    """Put a parametrization on a layer; its Parameter object stays, so an optimiser made before still trains it.

    Raises:
        UserError: the weight already has one.
    """
    if parametrized(layer):
        raise UserError("a method is already attached to this model; bake it first, or build the model anew")
    module = SparseWeight(layer.weight, effective, per_weight)
    # unsafe: skips a trial run that only compares shapes, which a pruned weight keeps by construction
    parametrize.register_parametrization(layer, "weight", module, unsafe=True)
    return module


def latent(layer: Prunable) -> Tensor:
    """The weight that the optimiser trains."""
    original = layer.get_parameter("parametrizations.weight.original")
    assert isinstance(original, nn.Parameter)
    return original


def remove(layer: Prunable) -> None:
    """Overwrite the latent weight by the effective one, in the same Parameter, and remove the parametrization."""
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
