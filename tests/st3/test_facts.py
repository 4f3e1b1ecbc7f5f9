"""Facts about the networks in the literature that need no data set."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from st3.layers import prunable_weights
from train.models.resnet_cifar import resnet_cifar


def test_resnet50_prunable_weights_and_macs() -> None:
    with torch.device("meta"):
        model = resnet50(weights=None).eval()
        assert prunable_weights(model) == 25_502_912
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    assert round(counter.get_total_flops() / 2 / 1e6, 2) == 4089.18


def test_cifar_resnet20_prunable_weights() -> None:
    with torch.device("meta"):
        assert prunable_weights(resnet_cifar(depth=20, width=16, channels=3)) == 270_896
