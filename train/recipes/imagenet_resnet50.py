"""ResNet-50 on ImageNet with the settings of the ST-3 authors' code."""

from __future__ import annotations

from torch import nn

from train.rates import cosine
from train.recipe import Recipe


def recipe() -> Recipe:
    """100 epochs, sparsity from epoch 5 to 50, cosine rate with five epochs of warm-up, float16.

    BatchNorm keeps torch's momentum of 0.1; the authors' 0.99 is an oddity, not a setting.
    """
    return Recipe(
        data="imagenet",
        model=_model,
        epochs=100,
        batch_size=512,
        learning_rate=0.2,
        rate=cosine(warmup=5 / 100),
        momentum=0.875,
        weight_decay=5e-5,
        begin=5 / 100,
        end=50 / 100,
        finetune_epochs=10,
        label_smoothing=0.1,
        precision="fp16",
    )


def _model() -> nn.Module:
    from torchvision.models import resnet50

    model = resnet50(weights=None)
    assert isinstance(model, nn.Module)
    return model
