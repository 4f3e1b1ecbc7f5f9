"""Which layers can be pruned: every convolution and every linear layer, none exempt."""

from __future__ import annotations

from typing import TypeAlias

from torch import nn

Prunable: TypeAlias = nn.Conv2d | nn.Linear


def prunable_layers(model: nn.Module) -> dict[str, Prunable]:
    """Convolutions and linear layers by qualified name, subclasses included, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def kind(layer: Prunable) -> str:
    """``conv2d`` or ``linear``."""
    return "conv2d" if isinstance(layer, nn.Conv2d) else "linear"


def prunable_weights(model: nn.Module) -> int:
    """Number of weights that a method may set to zero; biases and normalisations are not among them."""
    return sum(layer.weight.numel() for layer in prunable_layers(model).values())
