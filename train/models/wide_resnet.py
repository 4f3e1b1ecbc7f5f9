"""Wide residual networks for pictures of 32 x 32 pixels (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

from typing import cast, final

import torch.nn.functional as F
from torch import Tensor, nn


@final
class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after its normalisation and ReLU, with dropout between them.

    Where the number of channels changes, the shortcut is a 1x1 convolution of the normalised input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if self.same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to ``(B, outputs, H / stride, W / stride)``."""
        y = F.relu(self.bn1(x))
        left = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(y)))))
        return cast("Tensor", left + (x if self.same else self.shortcut(y)))


@final
class WideResNet(nn.Module):
    """Three stages of ``(depth - 4) / 6`` blocks with 16, 32 and 64 times ``width`` channels."""

    def __init__(self, depth: int, width: int, dropout: float, channels: int, classes: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 with n >= 1, got {depth}")
        blocks = (depth - 4) // 6
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.stage1 = _stage(blocks, 16, 16 * width, 1, dropout)
        self.stage2 = _stage(blocks, 16 * width, 32 * width, 2, dropout)
        self.stage3 = _stage(blocks, 32 * width, 64 * width, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to logits ``(B, classes)``."""
        y = self.stage3(self.stage2(self.stage1(self.conv(x))))
        return cast("Tensor", self.fc(F.adaptive_avg_pool2d(F.relu(self.bn(y)), 1).flatten(1)))


def wide_resnet(depth: int, width: int, dropout: float = 0.0, channels: int = 3, classes: int = 10) -> WideResNet:
    """Build one with He initialisation (fan out) of the convolutions.

    Args:
        depth: 6 n + 4, so 16, 22, 28, 34, 40, ...
        width: factor on the channels of the stages.
        dropout: probability, within the blocks.
        channels: of the pictures.
        classes: logits.
    """
    model = WideResNet(depth, width, dropout, channels, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _stage(blocks: int, inputs: int, outputs: int, stride: int, dropout: float) -> nn.Sequential:
    rest = (WideBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1))
    return nn.Sequential(WideBlock(inputs, outputs, stride, dropout), *rest)
