"""The small ResNets for pictures of about 32 x 32 pixels (He et al. 2016, section 4.2)."""

from __future__ import annotations

from typing import cast, final

import torch.nn.functional as F
from torch import Tensor, nn


@final
class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to ``(B, outputs, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


@final
class ResNetCifar(nn.Module):
    """Three stages of ``(depth - 2) / 6`` blocks with ``width``, ``2 width`` and ``4 width`` channels."""

    def __init__(self, depth: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2 with n >= 1, got {depth}")
        self.conv = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6
        self.stage1 = _stage(blocks, width, width, 1)
        self.stage2 = _stage(blocks, width, 2 * width, 2)
        self.stage3 = _stage(blocks, 2 * width, 4 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to logits ``(B, classes)``."""
        y = F.relu(self.bn(self.conv(x)))
        y = self.stage3(self.stage2(self.stage1(y)))
        return cast("Tensor", self.fc(self.pool(y).flatten(1)))


def resnet_cifar(depth: int, width: int = 16, channels: int = 3, classes: int = 10) -> ResNetCifar:
    """Build one with He initialisation (fan out) of the convolutions.

    Args:
        depth: 6 n + 2, so 8, 14, 20, ...
        width: channels of the first stage.
        channels: of the pictures.
        classes: logits.
    """
    model = ResNetCifar(depth, width, channels, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))
