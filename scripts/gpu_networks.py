"""The networks that both GPU benchmarks measure: torchvision's, with random weights and zeros by magnitude."""

from __future__ import annotations

import torch

from compile.from_checkpoint import TorchNetwork
from st3.graph import export_graph
from st3.layers import prunable_layers
from st3.patterns import TWO_OF_FOUR
from train.densities import parse_weights
from train.untrained import make_network, prune_groups

FOURS = "2to4"
"""The weights of which two of four consecutive inputs are left; all others are ``train.densities``'s."""


def network_of(name: str, weights: str, batch: int, side: int) -> TorchNetwork:
    """A network for ``batch`` square pictures; 2:4 wherever a layer's input channels are a multiple of four."""
    side = 224 if name.startswith("vit") else side  # its positions are for one size
    model = make_network(name, parse_weights("dense" if weights == FOURS else weights), side)
    if weights == FOURS:
        with torch.no_grad():
            for layer in prunable_layers(model).values():
                prune_groups(layer.weight, TWO_OF_FOUR)
    return TorchNetwork(export_graph(model, (3, side, side)), (3, side, side), batch)
