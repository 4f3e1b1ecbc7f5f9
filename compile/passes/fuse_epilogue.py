"""Merges sums, products and activations into the convolution that feeds them."""

from __future__ import annotations

import msgspec

from compile.graph import Conv, Elementwise, Graph, Node, reads


def fuse_epilogue(graph: Graph) -> Graph:
    """Fuse ``activation(conv + bias + residual) * factor``: the sum starts from the residual, the rest costs little.

    A convolution is fused with the element-wise node that alone reads it. Of two operands the later convolution takes
    the other one, because that one is ready by then. An activation alone is also merged into the sum or product of maps
    that feeds it.
    """
    nodes = list(graph.nodes)
    changed = True
    while changed:
        changed = False
        for index, node in enumerate(nodes):
            if not isinstance(node, Elementwise):
                continue
            position = _producer(nodes, index, node, graph)
            if position is not None:
                nodes[position : index + 1] = [_merged(nodes[position], node), *nodes[position + 1 : index]]
                changed = True
                break
    return msgspec.structs.replace(graph, nodes=tuple(nodes))


def _producer(nodes: list[Node], index: int, node: Elementwise, graph: Graph) -> int | None:
    """Position of the node that can take this one over, the latest one."""
    for position in range(index - 1, -1, -1):
        producer = nodes[position]
        if producer.output not in (node.left, node.right) or producer.output in graph.outputs:
            continue
        users = sum(reads(other).count(producer.output) for other in nodes)
        other = node.right if producer.output == node.left else node.left
        if users == 1 and _takes(producer, node, graph) and (other is None or _ready(nodes, position, other)):
            return position
    return None


def _takes(producer: Node, node: Elementwise, graph: Graph) -> bool:
    """Whether a node computes what a later one does on top, if it is given that one's other operand."""
    alone = node.right is None
    if isinstance(producer, Elementwise):
        return alone and producer.activation == "identity"
    if not isinstance(producer, Conv) or producer.factor is not None:
        return False
    if not alone and graph.shapes[node.left] != graph.shapes[str(node.right)]:
        return False
    if not alone and node.op == "multiply":
        return node.activation == "identity"
    return producer.activation == "identity" and (alone or producer.residual is None)


def _ready(nodes: list[Node], position: int, value: str) -> bool:
    """Whether a value exists before ``position`` (the graph's input always does)."""
    return all(node.output != value for node in nodes[position:])


def _merged(producer: Node, node: Elementwise) -> Node:
    if isinstance(producer, Elementwise):
        return msgspec.structs.replace(producer, output=node.output, activation=node.activation)
    assert isinstance(producer, Conv)
    other = node.right if producer.output == node.left else node.left
    if node.right is not None and node.op == "multiply":
        return msgspec.structs.replace(producer, output=node.output, factor=other)
    residual = producer.residual if node.right is None else other
    return msgspec.structs.replace(producer, output=node.output, activation=node.activation, residual=residual)
