"""VGG with batch normalisation for pictures of 32 x 32 pixels, as papers on sparse training use it."""

from __future__ import annotations

from typing import cast, final

import torch.nn.functional as F
from torch import Tensor, nn

_STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


@final
class VggCifar(nn.Module):
    """Five stages of 3x3 convolutions with a halving of the map after each but the last, then one linear layer.

    Simonyan and Zisserman 2015 (configuration D or E) without their three linear layers, which made sense for 224
    pixels; the map of the last stage is averaged, as in the code of GraSP (Wang et al. 2020) and GraNet (Liu et al.
    2021).
    """

    def __init__(self, depth: int, channels: int, classes: int) -> None:
        super().__init__()
        if depth not in _STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, _STAGES))}, got {depth}")
        layers: list[nn.Module] = []
        inputs = channels
        for stage, (count, width) in enumerate(zip(_STAGES[depth], _WIDTHS, strict=True)):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to logits ``(B, classes)``."""
        return cast("Tensor", self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)))


def vgg_cifar(depth: int, channels: int = 3, classes: int = 10) -> VggCifar:
    """Build one with He initialisation (fan out) of the convolutions.

    Args:
        depth: 16 or 19.
        channels: of the pictures.
        classes: logits.
    """
    model = VggCifar(depth, channels, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
