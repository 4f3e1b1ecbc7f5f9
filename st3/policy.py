"""What decides the zeros of all layers together: the abstract policy that a method gives to its pruner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from st3.layers import Prunable
from st3.parametrization import SparseWeight, latent
from st3.patterns import Pattern


class Site(NamedTuple):
    """A layer that takes the pattern, and the parametrization on its weight."""

    name: str
    layer: Prunable
    module: SparseWeight

    @property
    def weight(self) -> nn.Parameter:
        """The latent weight, detached from nothing: the very Parameter that the optimiser trains."""
        return latent(self.layer)


class Policy(ABC):
    """Decides on the host what an optimiser step's progress asks for, and carries it out on the device."""

    @abstractmethod
    def aim(self, progress: float) -> None:
        """Write what this progress asks for into device scalars; waits for nothing."""

    @abstractmethod
    def update(self) -> None:
        """Recompute thresholds or masks from the latent weights: no look at a value from the host, shapes static."""

    @abstractmethod
    def adjust_gradients(self) -> None:
        """Change the latent weights' gradients before they are clipped and used."""

    @property
    @abstractmethod
    def capturable(self) -> bool:
        """Whether the next ``adjust_gradients`` and ``update`` may be captured in a CUDA graph."""

    @property
    @abstractmethod
    def threshold(self) -> Tensor:
        """The present threshold as a scalar, or the mean where there are several."""


def memory_order(tensor: Tensor) -> Tensor:
    """All elements in the order of memory, without a copy where there are no gaps; no method cares which order."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def device_of(sites: list[Site]) -> torch.device:
    """Where the weights lie now: a model may be moved after a method was attached."""
    return sites[0].weight.device


def pattern_of(sites: list[Site]) -> Pattern:
    """The pattern, which all sites share."""
    return sites[0].module.pattern
