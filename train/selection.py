"""The best weights so far by accuracy on held-out pictures, once the sparsity is complete."""

from __future__ import annotations

from typing import final

import msgspec
from torch import Tensor


class Best(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``step`` optimiser steps were done; ``accuracy`` is top-1 on the held-out pictures, in [0, 1]."""

    step: int
    accuracy: float


@final
class Selection:
    """Keeps a copy of the best weights of a phase of the run.

    Weights from before full sparsity are never offered: they are better, and they are not what was asked for.
    """

    def __init__(self) -> None:
        self.best: Best | None = None
        self._tensors: dict[str, Tensor] = {}

    def offer(self, step: int, accuracy: float, tensors: dict[str, Tensor]) -> None:
        """Keep these weights if they are better; of equally good ones the later."""
        if self.best is None or accuracy >= self.best.accuracy:
            self.best = Best(step, accuracy)
            self._tensors = {name: value.detach().clone() for name, value in tensors.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The best weights by name; empty while there are none."""
        return self._tensors

    def restore(self, best: Best | None, tensors: dict[str, Tensor]) -> None:
        """Put back what ``best`` and ``tensors`` gave."""
        self.best, self._tensors = best, tensors

    def clear(self) -> None:
        """Begin anew: the weights of another phase do not fit this one's."""
        self.best, self._tensors = None, {}
