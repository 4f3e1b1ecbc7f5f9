"""Recognises activations that are written as products: x sigmoid(x) is SiLU, x hardsigmoid(x) is Hardswish."""

from __future__ import annotations

import msgspec

from compile.graph import Activation, Elementwise, Graph, Node, reads

_PRODUCTS: dict[str, Activation] = {"sigmoid": "silu", "hardsigmoid": "hardswish"}


def name_activations(graph: Graph) -> Graph:
    """Rewrite such a product as one activation; the factor goes if nothing else reads it."""
    factors: dict[str, tuple[str, Activation]] = {}  # value -> (its input, what a product with that input is)
    nodes: list[Node] = []
    for node in graph.nodes:
        named = node
        if isinstance(node, Elementwise) and node.right is None and node.activation in _PRODUCTS:
            factors[node.output] = node.left, _PRODUCTS[node.activation]
        if isinstance(node, Elementwise) and node.op == "multiply" and node.activation == "identity":
            for value, other in ((node.left, node.right), (node.right, node.left)):
                if value in factors and factors[value][0] == other and other is not None:
                    named = Elementwise(node.output, other, None, activation=factors[value][1])
        nodes.append(named)
    wanted = {value for node in nodes for value in reads(node)} | {*graph.outputs}
    kept = tuple(node for node in nodes if node.output in wanted or node.output not in factors)
    return msgspec.structs.replace(graph, nodes=kept)
