"""Running sums of a training, kept on the device and looked at once per report, since every look makes a GPU wait."""

from __future__ import annotations

from typing import final

import msgspec
import torch
from torch import Tensor, nn

from st3.layers import prunable_layers, prunable_weights
from train.distributed import World


class Totals(msgspec.Struct, frozen=True):
    """Over the steps since the last look, all processes together.

    ``loss`` and ``accuracy`` are means; ``bad`` is the first step (from 1) whose loss was not finite, counted from
    the last look, or 0.
    """

    loss: float
    accuracy: float
    bad: int
    threshold: float
    sparsity: float


@final
class Sums:
    """What the steps add up; ``add`` is device work only and may be captured in a graph."""

    def __init__(self, device: torch.device) -> None:
        self._loss, self._correct, self._steps, self._bad = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, correct: Tensor) -> None:
        """Count one step: its mean loss and its number of right answers, both scalars on the device."""
        self._steps.add_(1)
        self._loss.add_(loss)
        self._correct.add_(correct)
        first = loss.isfinite().logical_not() & (self._bad == 0)
        self._bad.add_(torch.where(first, self._steps, 0.0))

    def take(self, model: nn.Module, threshold: Tensor, batch_size: int, world: World) -> Totals:
        """Read and reset the sums; ``batch_size`` is that of one process."""
        values = torch.stack([self._loss, self._correct, self._steps, self._bad])
        # every process stops at the same step, so all must know of a loss that is not finite anywhere
        world.add_up(values[:3])
        world.largest(values[3:])
        more = torch.stack([threshold.to(values), zeros(model).to(values)])
        loss, correct, steps, bad, at, zero = torch.cat([values, more]).tolist()
        for tensor in (self._loss, self._correct, self._steps, self._bad):
            tensor.zero_()
        return Totals(
            loss=loss / max(1, steps),
            accuracy=correct / max(1, steps * batch_size),
            bad=int(bad),
            threshold=at,
            sparsity=zero / max(1, prunable_weights(model)),
        )


@torch.no_grad()
def zeros(model: nn.Module) -> Tensor:
    """Number of zeros among the effective prunable weights, as a scalar on the device."""
    counts = [(layer.weight == 0).sum() for layer in prunable_layers(model).values()]
    return torch.stack(counts).sum()
