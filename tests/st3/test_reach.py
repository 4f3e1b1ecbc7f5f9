"""Which weights are layers, by which names, and what is said of the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import st3
from st3.layers import layer_name, prunable_layers, prunable_weights, weight_name
from st3.reach import VECTORS, Beyond, beyond_reach, told


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions, self.token = nn.Parameter(torch.zeros(1, 5, 8)), nn.Parameter(torch.zeros(1, 1, 8))
        self.packed, self.apart = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
        self.up = nn.Sequential(*(nn.ConvTranspose2d(2, 2, 2, bias=False) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)


def test_names_of_layers_and_of_their_weights() -> None:
    model = Mixed()
    layers = prunable_layers(model)
    attention = [f"apart.{leaf}_proj" for leaf in ("q", "k", "v", "out")]
    assert list(layers) == ["packed.in_proj", "packed.out_proj", *attention, "head"]
    keys = [weight_name(name, layer) for name, layer in layers.items()]
    assert keys[:3] == ["packed.in_proj_weight", "packed.out_proj.weight", "apart.q_proj_weight"]
    assert [layer_name(key) for key in keys] == list(layers)
    state = model.state_dict()
    assert all(torch.equal(state[key], layer.weight) for key, layer in zip(keys, layers.values(), strict=True))
    # a model that is nothing else, and parameters of other modules
    assert list(prunable_layers(nn.MultiheadAttention(8, 2))) == ["in_proj", "out_proj"]
    assert layer_name("in_proj_weight") == "in_proj"
    assert layer_name("block.own_weight") == "block"


@pytest.mark.parametrize("attached", [False, True])
def test_what_no_method_prunes(attached: bool) -> None:
    model = Mixed()
    if attached:  # a method's own parameters are not the network's
        st3.attach(model, st3.SparsityPlan(sparsity=0.5), "str")
    biases = 24 + 8 + 24 + 8 + 3
    assert beyond_reach(model) == (
        Beyond("ConvTranspose2d.weight", ("up.0.weight", "up.1.weight", "up.2.weight"), 48),
        Beyond("Mixed.positions", ("positions",), 40),
        Beyond(VECTORS, (), 8 + biases + 16),
    )


def test_the_line_that_says_it() -> None:
    model = Mixed()
    weights = prunable_weights(model)
    assert weights == 3 * 64 + 64 + 8 * (8 + 4 + 6) + 64 + 24
    assert told(weights, beyond_reach(model)) == (
        "488 of 667 parameters can be pruned (73.16 %); no method prunes 3 ConvTranspose2d.weight 7.20 %, "
        "Mixed.positions 6.00 %, biases, normalisations and other vectors 13.64 %"
    )
    linear = nn.Linear(4, 4, bias=False)
    assert told(16, beyond_reach(linear)) == "16 of 16 parameters can be pruned (100.00 %)"
