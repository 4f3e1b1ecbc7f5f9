"""Merges an addition and an activation into the convolution that feeds them."""

from __future__ import annotations

import msgspec

from compile.graph import Conv, Elementwise, Graph, Node, reads


def fuse_epilogue(graph: Graph) -> Graph:
    """Fuse ``relu(conv + bias + residual)``: the sum starts from the residual and the activation costs nothing.

    A convolution is fused with the element-wise node that alone reads it. Of an addition's two operands the later
    convolution takes the other as its residual, because that one is ready by then.
    """
    nodes = list(graph.nodes)
    changed = True
    while changed:
        changed = False
        for index, node in enumerate(nodes):
            if isinstance(node, Elementwise) and node.op == "add":
                producer = _producer(nodes, index, node, graph.output)
                if producer is not None:
                    nodes[producer : index + 1] = _merge(nodes, producer, index)
                    changed = True
                    break
    return msgspec.structs.replace(graph, nodes=tuple(nodes))


def _producer(nodes: list[Node], index: int, add: Elementwise, output: str) -> int | None:
    """Position of the convolution that can take this node over, the latest one."""
    for position in range(index - 1, -1, -1):
        node = nodes[position]
        if node.output not in (add.left, add.right):
            continue
        if not isinstance(node, Conv) or node.activation != "identity" or node.output == output:
            continue
        if add.right is not None and (node.residual is not None or add.left == add.right):
            continue
        users = sum(reads(other).count(node.output) for other in nodes)
        other = add.right if node.output == add.left else add.left
        if users == 1 and (add.right is None or _ready(nodes, position, other)):
            return position
    return None


def _ready(nodes: list[Node], position: int, value: str | None) -> bool:
    """Whether a value exists before ``position`` (the graph's input always does)."""
    return all(node.output != value for node in nodes[position:])


def _merge(nodes: list[Node], producer: int, index: int) -> list[Node]:
    conv, add = nodes[producer], nodes[index]
    assert isinstance(conv, Conv)
    assert isinstance(add, Elementwise)
    residual = conv.residual if add.right is None else (add.right if conv.output == add.left else add.left)
    fused = msgspec.structs.replace(conv, output=add.output, activation=add.activation, residual=residual)
    return [fused, *nodes[producer + 1 : index]]
