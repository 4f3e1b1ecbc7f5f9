"""Reads an exported torch graph into the compiler's own graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx

from compile.aten.constants import constant
from compile.aten.readers import READERS
from compile.aten.state import Import, Reader
from compile.capture import Captured
from compile.graph import Graph
from compile.passes.fold_batchnorm import tensor_of
from runtime.errors import UserError


def read_graph(captured: Captured) -> Graph:
    """Import a captured network.

    Raises:
        UserError: an operator is not known; the message names the node, the operator and the known ones.
    """
    nodes = captured.module.graph.nodes
    held = {node: tensor_of(captured.module, node) for node in nodes if node.op == "get_attr"}
    weights = {node: value for node, value in held.items() if value is not None}
    return read_nodes(nodes, weights, captured.input_shape, captured.outputs, READERS)


def read_nodes(
    nodes: Iterable[fx.Node],
    weights: dict[fx.Node, Tensor],
    input_shape: tuple[int, int, int, int],
    outputs: tuple[str, ...],
    readers: Mapping[object, Reader],
) -> Graph:
    """Import torch nodes in their order.

    Args:
        nodes: the whole graph; each has its result, or one like it, in ``meta["val"]``.
        weights: what the nodes ``get_attr`` are.
        input_shape: ``(B, C, H, W)``.
        outputs: names of the results.
        readers: what reads a node, by its target.

    Raises:
        UserError: as ``read_graph``.
    """
    state = Import(weights, input_shape[0])
    ordered = list(nodes)
    last_use = {source: node for node in ordered for source in node.all_input_nodes}
    given, results = "", list[str]()
    for node in ordered:
        if node.op == "placeholder":
            given = node.name
            state.input(node, input_shape[1:])
        elif node.op in ("get_attr", "call_function") and (node.users or _in_place(node)):
            if not constant(state, node):
                _read_call(state, node, readers)
            _forget(state, node, last_use)
        elif node.op == "output":
            results.extend(state.answer(result, name) for name, result in zip(outputs, _results(node), strict=True))
    return Graph(given, results[0], tuple(state.nodes), state.shapes, tuple(results[1:]))


def _results(output: fx.Node) -> tuple[object, ...]:
    (results,) = output.args
    assert isinstance(results, (tuple, list))
    return tuple(results)


def _forget(state: Import, node: fx.Node, last_use: dict[fx.Node, fx.Node]) -> None:
    """Drop the element numbers that nothing after ``node`` reads; they are as large as their tensors."""
    for source in (*node.all_input_nodes, node):
        if last_use.get(source, source) is node:
            state.elements.pop(source, None)
            state.scores.pop(source, None)
            state.several.pop(source, None)
            state.lengths.pop(source, None)


def _read_call(state: Import, node: fx.Node, readers: Mapping[object, Reader]) -> None:
    if node.target not in readers:
        names = {str(target) for target in readers if isinstance(target, torch._ops.OpOverload)}
        known = ", ".join(sorted({name.removeprefix("aten.").split(".")[0] for name in names}))
        raise UserError(
            f"node {node.name!r} uses the operator {node.target}, which the native backend does not have "
            f"(it has {known}); use the onnxruntime or inductor backend for this network"
        )
    state.reading = node
    readers[node.target](state, node)
    state.reading = None
    if _in_place(node):
        assert isinstance(node.args[0], fx.Node)
        state.overwrite(node.args[0], node)


def _in_place(node: fx.Node) -> bool:
    """Whether an operator writes its result over its first argument."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.arguments:
        return False
    first = node.target._schema.arguments[0].alias_info
    return first is not None and first.is_write
