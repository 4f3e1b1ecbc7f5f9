"""Which share of each layer's weights is kept, for sparse networks that nobody trained: ``u_90``, ``st3_90``.

``u_NN`` keeps the same share of every layer. ``st3_NN`` is a model of how a global threshold spreads the zeros:
Gaussian weights whose deviation falls with the fan-in, and one magnitude below which all are dropped.
"""

from __future__ import annotations

import math
import re

import msgspec

from runtime.errors import UserError

DEVIATION_EXPONENT = -0.32316
"""Gives ResNet-50 764.0 million MACs at 90 %, the figure of ST-3's authors."""


class Weights(msgspec.Struct, frozen=True):
    """What a name such as ``st3_90`` asks for: ``kind`` is ``dense``, ``u`` or ``st3``."""

    kind: str
    sparsity: float


class LayerSize(msgspec.Struct, frozen=True):
    """``weights`` is their number, ``fan_in`` how many of them an output adds up."""

    weights: int
    fan_in: int


def parse_weights(name: str) -> Weights:
    """Read a name; raises ``UserError`` with the valid forms."""
    if name == "dense":
        return Weights("dense", 0.0)
    match = re.fullmatch(r"(u|st3)_([1-9][0-9]?)", name)
    if match is None:
        raise UserError(
            f"there are no weights {name!r}; give dense, u_NN (every layer alike) or st3_NN (one global threshold), "
            f"where NN is the per cent of zeros from 1 to 99, for instance st3_90"
        )
    return Weights(match[1], int(match[2]) / 100)


def densities(weights: Weights, layers: dict[str, LayerSize]) -> dict[str, float]:
    """The share of weights to keep in each layer, in [0, 1]; over all layers it is ``1 - sparsity``."""
    if weights.kind == "st3":
        return global_densities(weights.sparsity, layers)
    return dict.fromkeys(layers, 1 - weights.sparsity)


def global_densities(sparsity: float, layers: dict[str, LayerSize]) -> dict[str, float]:
    """Bisect for the threshold that leaves ``1 - sparsity`` of all weights."""
    total = sum(layer.weights for layer in layers.values())
    low, high = 0.0, 1.0
    while _kept(high, layers) > (1 - sparsity) * total:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if _kept(middle, layers) > (1 - sparsity) * total:
            low = middle
        else:
            high = middle
    return {name: _density(high, layer) for name, layer in layers.items()}


def _kept(threshold: float, layers: dict[str, LayerSize]) -> float:
    return sum(layer.weights * _density(threshold, layer) for layer in layers.values())


def _density(threshold: float, layer: LayerSize) -> float:
    """``P(|w| > threshold)`` of a centred Gaussian."""
    deviation = float(layer.fan_in) ** DEVIATION_EXPONENT
    return math.erfc(threshold / deviation / math.sqrt(2))
