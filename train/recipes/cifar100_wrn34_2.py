"""WRN-34-2 on CIFAR-100 with the settings of the ST-3 authors' code."""

from __future__ import annotations

from train.models.wide_resnet import wide_resnet
from train.rates import steps
from train.recipe import Recipe


def recipe() -> Recipe:
    """160 epochs, dropout 0.2, sparsity from epoch 5 to 80, rate divided by ten at 80 and 120.

    All 50,000 pictures train and the last weights count, as in ``cifar10-resnet20``.
    """
    return Recipe(
        data="cifar100",
        model=lambda: wide_resnet(depth=34, width=2, dropout=0.2, classes=100),
        epochs=160,
        batch_size=128,
        learning_rate=0.1,
        rate=steps((80 / 160, 120 / 160), 0.1),
        momentum=0.9,
        weight_decay=1e-4,
        begin=5 / 160,
        end=80 / 160,
        finetune_epochs=10,
    )
