"""One small member of each of torchvision's families; large ones are a small configuration of their own class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
import torchvision.models as models
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import Bottleneck, ResNet


def mobilenet_v1() -> nn.Module:
    """Howard and others 2017, at width 0.25; torchvision begins with V2."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            *(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()),
            *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
        ]

    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    widths = [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    for (inputs, outputs), stride in zip(pairwise(widths), strides, strict=True):
        layers += block(inputs, outputs, stride)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def vgg(name: str) -> nn.Module:
    """With hidden layers of 64 instead of 4096, whose hundred million weights would be most of the test's time."""
    model = getattr(models, name)(num_classes=10)
    model.classifier = nn.Sequential(
        *(nn.Linear(512 * 7 * 7, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True), nn.Dropout()),
        nn.Linear(64, 10),
    )
    return model


def efficientnet(stages: list[MBConvConfig | FusedMBConvConfig]) -> nn.Module:
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    return EfficientNet(stages, dropout=0.2, num_classes=10, norm_layer=norm, last_channel=320)


# B0 with one block a stage, and a short version of V2-S
EFFICIENTNET = [
    MBConvConfig(1, 3, 1, 32, 16, 1),
    MBConvConfig(6, 3, 2, 16, 24, 2),
    MBConvConfig(6, 5, 2, 24, 40, 1),
    MBConvConfig(6, 3, 2, 40, 80, 1),
    MBConvConfig(6, 5, 1, 80, 112, 1),
    MBConvConfig(6, 5, 2, 112, 192, 1),
]
EFFICIENTNET_V2 = [
    FusedMBConvConfig(1, 3, 1, 24, 24, 2),
    FusedMBConvConfig(4, 3, 2, 24, 48, 2),
    MBConvConfig(4, 3, 2, 48, 64, 2),
    MBConvConfig(6, 3, 1, 64, 80, 1),
]


INVERTED_RESIDUALS = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 1, 2], [6, 96, 2, 1]]


def regnet(se_ratio: float | None) -> nn.Module:
    """The 400MF model of its kind, less deep."""
    blocks = BlockParams.from_init_params(depth=8, w_0=24, w_a=24.48, w_m=2.54, group_width=16, se_ratio=se_ratio)
    return RegNet(blocks, num_classes=10)


def convnext() -> nn.Module:
    stages = [CNBlockConfig(48, 96, 1), CNBlockConfig(96, 192, 1), CNBlockConfig(192, None, 2)]
    model = ConvNeXt(stages, stochastic_depth_prob=0.1, num_classes=10)
    for child in model.modules():
        if hasattr(child, "layer_scale"):  # 1e-6 at first, which would hide the blocks
            nn.init.uniform_(child.layer_scale, -1, 1)
    return model


class Segmenter(nn.Module):
    """What DeepLab and feature pyramids add to a backbone: maps of several sizes brought to one."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(12, 16, 3, stride=2, padding=2, dilation=2)
        self.lateral, self.top = nn.Conv2d(12, 8, 1), nn.Conv2d(16, 8, 1)
        self.pooled, self.head = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = torch.relu(self.fine(x))
        coarse = torch.relu(self.coarse(fine))
        merged = self.lateral(fine) + F.interpolate(self.top(coarse), fine.shape[-2:], mode="nearest")
        whole = F.adaptive_avg_pool2d(coarse, 1)
        image = F.interpolate(self.pooled(whole), fine.shape[-2:], mode="bilinear")
        return F.interpolate(self.head(torch.cat([merged, image], 1)), x.shape[-2:], mode="bilinear")


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (partial(models.resnet18, num_classes=10), 64),
    "wide_resnet": (lambda: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=128), 64),
    "resnext": (lambda: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, groups=32, width_per_group=4), 64),
    "mobilenet_v1": (mobilenet_v1, 96),
    "mobilenet_v2": (partial(models.MobileNetV2, num_classes=10, inverted_residual_setting=INVERTED_RESIDUALS), 64),
    "mobilenet_v3_small": (partial(models.mobilenet_v3_small, num_classes=10), 64),
    "efficientnet": (partial(efficientnet, EFFICIENTNET), 64),
    "efficientnet_v2": (partial(efficientnet, EFFICIENTNET_V2), 96),
    "vgg11": (partial(vgg, "vgg11"), 64),
    "vgg11_bn": (partial(vgg, "vgg11_bn"), 64),
    "densenet": (lambda: models.DenseNet(12, (3, 4, 3, 2), 24, num_classes=10), 64),
    "shufflenet_v2": (partial(models.shufflenet_v2_x0_5, num_classes=10), 64),
    "squeezenet1_0": (partial(models.squeezenet1_0, num_classes=10), 96),
    "squeezenet1_1": (partial(models.squeezenet1_1, num_classes=10), 64),
    "regnet_x": (partial(regnet, None), 64),
    "regnet_y": (partial(regnet, 0.25), 64),
    "convnext": (convnext, 64),
    "segmenter": (Segmenter, 50),
}
