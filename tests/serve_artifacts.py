"""Small artifacts to serve."""

from __future__ import annotations

from pathlib import Path

import torch
from support import Compiler, prune_randomly
from torch import nn

SHAPE = (1, 8, 8)
SIZES = (1, 4)


def build(folder: Path, seed: int, shape: tuple[int, int, int] = SHAPE) -> Path:
    """A network with random weights, compiled for batches of one and four."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return Compiler(folder).artifact(prune_randomly(module, 0.6, seed), shape, SIZES).folder
