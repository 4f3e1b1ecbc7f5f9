"""ResNet-20 on CIFAR-10 with the settings of the ST-3 authors' code."""

from __future__ import annotations

from train.models.resnet_cifar import resnet_cifar
from train.rates import steps
from train.recipe import Recipe


def recipe() -> Recipe:
    """160 epochs, sparsity from epoch 5 to 80, rate divided by ten at 80 and 120; ten more with the mask frozen.

    The authors hold 5,000 of the 50,000 training pictures back to choose an epoch, which may come from before the
    sparsity is complete; here all pictures train and the last weights count.
    """
    return Recipe(
        data="cifar10",
        model=lambda: resnet_cifar(depth=20, width=16, channels=3),
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
