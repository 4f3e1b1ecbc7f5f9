"""The layer table: every conv and linear layer of a network with its MACs, before a backend chose formats."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from compile.capture import Captured
from compile.graph import Conv, Graph
from compile.passes.fold_batchnorm import tensor_of
from st3.layers import layer_name

_OPS = {
    torch.ops.aten.conv2d.default: "conv2d",
    torch.ops.aten.conv2d.padding: "conv2d",
    torch.ops.aten.linear.default: "linear",
}


class Layer(msgspec.Struct, frozen=True):
    """``weight`` as the module has it, batch normalisation folded; MACs are per picture."""

    name: str
    op: str
    weight: NDArray[np.float32]
    macs_dense: int
    macs_nonzero: int


def read_layers(captured: Captured) -> tuple[Layer, ...]:
    """Layers in execution order; a module that runs twice appears twice."""
    layers = []
    computed: set[object] = set()  # nodes that depend on the picture; what does not is no work of the network's
    for node in captured.module.graph.nodes:
        if node.op == "placeholder" or computed.intersection(node.all_input_nodes):
            computed.add(node)
        if node.target not in _OPS or node not in computed:
            continue
        tensor = tensor_of(captured.module, node.args[1])
        assert tensor is not None
        weight = tensor.to(torch.float32).numpy()
        # positions that one weight serves in one picture: all of the output but batch and channel
        results = math.prod(int(length) for length in node.meta["val"].shape)
        positions = results // (len(weight) * captured.input_shape[0])
        layers.append(
            Layer(
                name=layer_name(str(node.args[1].target)),
                op=_OPS[node.target],
                weight=weight,
                macs_dense=weight.size * positions,
                macs_nonzero=int(np.count_nonzero(weight)) * positions,
            )
        )
    return tuple(layers)


def graph_layers(graph: Graph) -> tuple[Layer, ...]:
    """The same of a graph; what is not a layer of the user's (a scale and shift, a padding) is left out."""
    layers = []
    for node in graph.nodes:
        if not isinstance(node, Conv) or node.op not in _OPS.values():
            continue
        positions = math.prod(graph.shapes[node.output][1:])
        weight = node.weight if node.op == "conv2d" else node.weight.reshape(len(node.weight), -1)
        nonzeros = int(np.count_nonzero(weight))
        layers.append(Layer(node.layer, node.op, weight, weight.size * positions, nonzeros * positions))
    return tuple(layers)
