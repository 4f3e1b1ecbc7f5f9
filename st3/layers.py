"""Which weights can be pruned: of every convolution, linear layer and projection of attention, none exempt."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""The linear layers that ``nn.MultiheadAttention`` holds as bare parameters; ``out_proj`` is an ``nn.Linear``."""

_WEIGHT = "weight"


class Prunable(NamedTuple):
    """A layer whose weight can be pruned: the module that holds the weight, and the weight's name in it."""

    module: nn.Module
    leaf: str

    @property
    def weight(self) -> Tensor:
        """``(N, K, ...)``: the effective weight while a method is attached."""
        weight: Tensor = getattr(self.module, self.leaf)
        return weight


def prunable_layers(model: nn.Module) -> dict[str, Prunable]:
    """Convolutions and linear layers by qualified name, subclasses included, in the model's order.

    An attention's projections are linear layers called ``NAME.in_proj``, as its last one is ``NAME.out_proj``. Queries,
    keys and values lie in one weight ``(3 E, E)`` one after another and are one layer, unless their widths differ: then
    they are ``NAME.q_proj``, ``NAME.k_proj`` and ``NAME.v_proj``.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            found[name] = Prunable(module, _WEIGHT)
        elif isinstance(module, nn.MultiheadAttention):
            for leaf in PROJECTIONS:
                if module._parameters.get(leaf) is not None or parametrize.is_parametrized(module, leaf):
                    found[layer_name(f"{name}.{leaf}" if name else leaf)] = Prunable(module, leaf)
    return found


def layer_name(weight_name: str) -> str:
    """The layer of a weight by its key in the ``state_dict``: its module, or of an attention the projection."""
    owner, _, leaf = weight_name.rpartition(".")
    if leaf not in PROJECTIONS:
        return owner
    projection = leaf.removesuffix(f"_{_WEIGHT}")
    return f"{owner}.{projection}" if owner else projection


def weight_name(name: str, layer: Prunable) -> str:
    """The key of a layer's weight in the ``state_dict``; the inverse of ``layer_name``."""
    owner = name if layer.leaf == _WEIGHT else name.rpartition(".")[0]
    return f"{owner}.{layer.leaf}" if owner else layer.leaf


def kind(layer: Prunable) -> str:
    """``conv2d`` or ``linear``."""
    return "conv2d" if isinstance(layer.module, nn.Conv2d) else "linear"


def prunable_weights(model: nn.Module) -> int:
    """Number of weights that a method may set to zero; biases and normalisations are not among them."""
    return sum(layer.weight.numel() for layer in prunable_layers(model).values())
