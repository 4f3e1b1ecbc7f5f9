"""What a network on a GPU returns: its results in float32 and in the artifact's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The shape of each output, batch included."""


def as_answer(results: Sequence[Tensor], shapes: Shapes) -> Tensor | tuple[Tensor, ...]:
    """One output as a tensor, several as a tuple, in these shapes."""
    made = tuple(result.reshape(shape).to(torch.float32) for result, shape in zip(results, shapes, strict=True))
    return made[0] if len(made) == 1 else made
