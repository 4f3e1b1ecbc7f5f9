"""Small networks that answer with several tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pyramid(nn.Module):
    """Maps of three sizes, logits, and one tensor under two names; what is returned is read further, and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
        self.side, self.head = nn.Conv2d(6, 5, 1), nn.Linear(13, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        before = self.stem(x)
        stem = before.relu()
        down = self.down(stem).relu()
        side = self.side(stem)
        both = torch.cat([nn.functional.max_pool2d(side, 2, ceil_mode=True), down], 1)
        return {
            "before": before,
            "0": stem,
            "side": side,  # a part of the concatenation is pooled from it
            "down": down,  # lies in the channels of "both"
            "both": both,
            "logits": self.head(both.mean((2, 3))),
            "again": down,
        }


class Pair(NamedTuple):
    out: Tensor
    aux: Tensor


class Segments(nn.Module):
    """A named tuple of two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out, self.aux = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Pair:
        y = self.body(x).relu()
        return Pair(self.out(y), self.aux(y))
