"""VGG-19 on CIFAR-10 as papers on sparse training run it."""

from __future__ import annotations

from train.models.vgg_cifar import vgg_cifar
from train.rates import steps
from train.recipe import Recipe


def recipe() -> Recipe:
    """160 epochs at rate 0.1, divided by ten at 80 and 120, Nesterov momentum 0.9, weight decay 5e-4, batches of 100.

    These are the settings of the public code of GraNet (Liu et al. 2021, arXiv 2106.10404), which also runs GMP and
    RigL. The ST-3 authors have no VGG; the sparsity schedule, from epoch 5 to 80, is that of their CIFAR runs.
    """
    return Recipe(
        data="cifar10",
        model=lambda: vgg_cifar(depth=19),
        epochs=160,
        batch_size=100,
        learning_rate=0.1,
        rate=steps((80 / 160, 120 / 160), 0.1),
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        begin=5 / 160,
        end=80 / 160,
    )
