"""Folds a scale and shift per channel into the convolution or layer normalisation that it alone reads."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np

from compile.graph import Conv, Graph, LayerNorm, Node, reads


def fold_affine(graph: Graph) -> Graph:
    """Rewrite a graph; a scale and shift is a 1x1 convolution of each channel by itself (``op`` is ``affine``).

    One that follows anything else, or a value that others read too, is left where it is.
    """
    users = Counter(value for node in graph.nodes for value in reads(node)) + Counter(graph.outputs)
    nodes: list[Node] = []
    position: dict[str, int] = {}
    for node in graph.nodes:
        if isinstance(node, Conv) and node.op == "affine" and users[node.input] == 1 and node.input in position:
            place = position[node.input]
            merged = _merge(nodes[place], node)
            if merged is not None:
                nodes[place] = merged
                position[node.output] = place
                continue
        position[node.output] = len(nodes)
        nodes.append(node)
    kept = {graph.input} | {node.output for node in nodes}
    shapes = {name: shape for name, shape in graph.shapes.items() if name in kept}
    return msgspec.structs.replace(graph, nodes=tuple(nodes), shapes=shapes)


def _merge(node: Node, affine: Conv) -> Node | None:
    scale, shift = affine.weight.reshape(-1), affine.bias
    if isinstance(node, LayerNorm):
        return msgspec.structs.replace(
            node, output=affine.output, weight=node.weight * scale, bias=node.bias * scale + shift
        )
    plain = isinstance(node, Conv) and node.activation == "identity" and node.residual is None and node.factor is None
    if not isinstance(node, Conv) or not plain:
        return None
    return msgspec.structs.replace(
        node,
        output=affine.output,
        # adding +0 turns the -0 that a negative scale makes of a zero into +0: builders test weights for exact zeros
        weight=np.ascontiguousarray(node.weight * scale.reshape(-1, 1, 1, 1) + np.float32(0)),
        bias=node.bias * scale + shift,
    )
