"""Fine-tuning after the bake: a plain network whose pruned weights stay zero."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from st3.layers import PROJECTIONS, prunable_layers


@final
class FrozenMasks:
    """Takes the pruner's place in the loop once the model is baked.

    The pruner keeps its masks in memory; these can be saved and put back.

    Attributes:
        threshold: 0, since nothing is thresholded any more.
        capturable: whether ``update`` may be captured in a graph: always.
    """

    capturable = True

    def __init__(self, model: nn.Module) -> None:
        self._layers = prunable_layers(model)
        self._kept = {name: layer.weight.detach() != 0 for name, layer in self._layers.items()}
        self.threshold = torch.zeros((), device=next(model.parameters()).device)

    def aim(self, progress: float) -> None:
        """Nothing changes with the progress."""

    def adjust_gradients(self) -> None:
        """The gradients are the loss's own."""

    @torch.no_grad()
    def update(self) -> None:
        """Set the pruned weights back to zero; device work only."""
        for name, kept in self._kept.items():
            self._layers[name].weight.masked_fill_(~kept, 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """The masks by layer, True where a weight is kept."""
        return self._kept

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Put back what ``tensors`` gave."""
        for name, kept in self._kept.items():
            # a run from before projections were layers has no mask of them: they are dense in it
            if name in saved or self._layers[name].leaf not in PROJECTIONS:
                kept.copy_(saved[name])
