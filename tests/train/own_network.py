"""A module of a user's own in a folder of its own, as ``--model own_nets:small`` finds it."""

from __future__ import annotations

SOURCE = '''
import torch
from torch import nn


def small(channels: int = 1, width: int = 8, classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, classes),
    )


class Segmenter(nn.Module):
    """Answers with a dictionary, as torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.body(x), "aux": x}


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3)

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """Boxes of each picture, as torchvision's detectors return them."""
        return [{"boxes": one.flatten(1)} for one in self.body(x)]


def number() -> int:
    return 3


def unlucky() -> nn.Module:
    raise ValueError("no luck")


def without_layers() -> nn.Module:
    return nn.Flatten()
'''
