"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861, table 1), which torchvision does not have."""

from __future__ import annotations

from typing import cast, final

import torch.nn.functional as F
from torch import Tensor, nn

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels and stride of each depthwise separable block."""


@final
class MobileNetV1(nn.Module):
    """A 3x3 convolution, thirteen pairs of a depthwise 3x3 and a pointwise 1x1 convolution, one linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers = [*_unit(channels, 32, 3, 2, 1)]
        inputs = 32
        for outputs, stride in _BLOCKS:
            layers += [*_unit(inputs, inputs, 3, stride, inputs), *_unit(inputs, outputs, 1, 1, 1)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to logits ``(B, classes)``."""
        return cast("Tensor", self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)))


def mobilenet_v1(channels: int = 3, classes: int = 1000) -> MobileNetV1:
    """Build one with He initialisation (fan out) of the convolutions."""
    model = MobileNetV1(channels, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _unit(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
