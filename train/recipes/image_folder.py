"""Anybody's pictures in folders of their classes: torchvision's ResNet-18 unless ``--model`` names another network."""

from __future__ import annotations

from train.network import Reference, factory
from train.rates import cosine
from train.recipe import Recipe

_DEFAULT = Reference("torchvision:resnet18")


def recipe() -> Recipe:
    """ImageNet's settings for batches of 64: a rate in proportion, and fewer epochs than its million pictures need."""
    return Recipe(
        data="image_folder",
        model=factory(_DEFAULT, None),
        reference=_DEFAULT,
        epochs=30,
        batch_size=64,
        learning_rate=0.025,
        rate=cosine(warmup=0.05),
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        begin=0.0,
        end=0.5,
        label_smoothing=0.1,
    )
