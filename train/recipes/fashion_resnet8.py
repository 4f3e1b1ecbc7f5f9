"""The default recipe: a ResNet-8 on Fashion-MNIST, about a minute a run on two CPU cores."""

from __future__ import annotations

from train.models.resnet_cifar import resnet_cifar
from train.rates import cosine
from train.recipe import Recipe


def recipe() -> Recipe:
    """Wide enough (24, 48, 96 channels) that inference is worth speeding up, short enough to wait for."""
    return Recipe(
        data="fashion_mnist",
        model=lambda: resnet_cifar(depth=8, width=24, channels=1),
        epochs=1.5,
        batch_size=128,
        learning_rate=0.2,
        rate=cosine(warmup=0.15),
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        begin=0.0,
        end=0.5,
    )
