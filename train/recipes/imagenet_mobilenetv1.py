"""MobileNetV1 on ImageNet with the settings of STR's authors."""

from __future__ import annotations

from train.models.mobilenet_v1 import mobilenet_v1
from train.rates import cosine
from train.recipe import Recipe


def recipe() -> Recipe:
    """100 epochs, cosine rate from 0.256, five epochs of warm-up, momentum 0.875, weight decay 2^-15, batches of 256.

    These are the values of ``mobilenetv1-dense.yaml`` in the public code of STR (Kusupati et al. 2020, arXiv
    2002.03231). The ST-3 authors have no MobileNet; the sparsity schedule, from epoch 5 to 50, is that of their
    ResNet-50.
    """
    return Recipe(
        data="imagenet",
        model=mobilenet_v1,
        epochs=100,
        batch_size=256,
        learning_rate=0.256,
        rate=cosine(warmup=5 / 100),
        momentum=0.875,
        weight_decay=2**-15,
        begin=5 / 100,
        end=50 / 100,
        label_smoothing=0.1,
    )
