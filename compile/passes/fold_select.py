"""Takes a choice of channels into the weights of the sparse convolutions that read it, where a zero costs nothing."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np

from compile.graph import Conv, Graph, Node, reads

DENSEST = 0.5
"""Share of non-zeros up to which a convolution counts as sparse: a dense kernel would pay for the new zeros."""


def fold_select(graph: Graph) -> Graph:
    """Rewrite a graph; a choice that something else reads, or that a dense convolution reads, stays."""
    chosen: dict[str, Conv] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        folded: Node = node
        if isinstance(node, Conv) and node.groups == 1 and node.input in chosen and _sparse(node):
            choice = chosen[node.input]
            index = np.argmax(choice.weight[:, :, 0, 0], axis=1)
            weight = np.zeros((len(node.weight), choice.weight.shape[1], *node.weight.shape[2:]), np.float32)
            weight[:, index] = node.weight
            folded = msgspec.structs.replace(node, input=choice.input, weight=weight)
        if isinstance(folded, Conv) and _chooses(folded):
            chosen[folded.output] = folded
        nodes.append(folded)
    wanted = Counter(value for node in nodes for value in reads(node)) + Counter(graph.outputs)
    kept = tuple(node for node in nodes if wanted[node.output] or node.output not in chosen)
    return msgspec.structs.replace(graph, nodes=kept)


def _chooses(node: Conv) -> bool:
    """Whether it still is a plain choice: a scale or an activation may have been merged into it."""
    rows = node.weight.reshape(len(node.weight), -1)
    ones = bool(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all())
    return node.op == "select" and ones and not node.bias.any() and node.activation == "identity"


def _sparse(node: Conv) -> bool:
    return node.op == "select" or bool(np.count_nonzero(node.weight) <= DENSEST * node.weight.size)
