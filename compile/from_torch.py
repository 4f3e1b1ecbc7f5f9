"""Reads an exported torch graph into the compiler's own graph."""

from __future__ import annotations

import torch
from torch import fx

from compile.aten.constants import constant
from compile.aten.readers import READERS
from compile.aten.state import Import, in_order
from compile.capture import Captured
from compile.graph import Graph
from runtime.errors import UserError


def read_graph(captured: Captured) -> Graph:
    """Import a captured network.

    Raises:
        UserError: an operator is not known; the message names the node, the operator and the known ones.
    """
    state = Import(captured.module, captured.input_shape[0])
    last_use = {source: node for node in captured.module.graph.nodes for source in node.all_input_nodes}
    given, results = "", list[str]()
    for node in captured.module.graph.nodes:
        if node.op == "placeholder":
            given = node.name
            state.input(node, captured.input_shape[1:])
        elif node.op in ("get_attr", "call_function") and (node.users or _in_place(node)):
            if not constant(state, node):
                _read_call(state, node)
            _forget(state, node, last_use)
        elif node.op == "output":
            for name, result in zip(captured.outputs, node.args[0], strict=True):
                view = state.view(result)
                if not in_order(view.dims) or view.dims[0] != (0,):
                    raise UserError(
                        f"the network's result {name!r} is a permuted map; the native backend has (C, H, W)"
                    )
                results.append(view.name)
    return Graph(given, results[0], tuple(state.nodes), state.shapes, tuple(results[1:]))


def _forget(state: Import, node: fx.Node, last_use: dict[fx.Node, fx.Node]) -> None:
    """Drop the element numbers that nothing after ``node`` reads; they are as large as their tensors."""
    for source in (*node.all_input_nodes, node):
        if last_use.get(source, source) is node:
            state.elements.pop(source, None)
            state.scores.pop(source, None)
            state.several.pop(source, None)


def _read_call(state: Import, node: fx.Node) -> None:
    if node.target not in READERS:
        names = {str(target) for target in READERS if isinstance(target, torch._ops.OpOverload)}
        known = ", ".join(sorted({name.removeprefix("aten.").split(".")[0] for name in names}))
        raise UserError(
            f"node {node.name!r} uses the operator {node.target}, which the native backend does not have "
            f"(it has {known}); use the onnxruntime or inductor backend for this network"
        )
    state.reading = node
    READERS[node.target](state, node)
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
