"""A moving average of the weights (Polyak averaging), which is evaluated and stored in place of the last ones.

Averaged are the latent weights and the statistics of batch normalisations. Thresholds are not: they are computed anew
from the averaged weights, so that the sparsity is exactly the plan's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn


@final
class Average:
    """The average of one model's weights; ``update`` is device work only and may be captured in a graph."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = _averaged(model)
        self._mean = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """``mean = decay mean + (1 - decay) weight``; call it after every step."""
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), 1 - self._decay)

    @torch.no_grad()
    def write(self) -> None:
        """Overwrite the model's weights by the average."""
        for name, value in self._live.items():
            value.copy_(self._mean[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights with its present thresholds; afterwards its own again."""
        own = {name: value.detach().clone() for name, value in self._live.items()}
        self.write()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._live.items():
                    value.copy_(own[name])

    def tensors(self) -> dict[str, Tensor]:
        """The average by name, to be saved."""
        return self._mean

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Put back what ``tensors`` gave."""
        for name, value in self._mean.items():
            value.copy_(saved[name])


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = dict(model.named_parameters())
    for prefix, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name, value in module.named_buffers(prefix, recurse=False):
                if value.is_floating_point():
                    found[name] = value
    return found
