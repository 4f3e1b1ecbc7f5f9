"""Reads an exported torch graph into the compiler's own graph."""

from __future__ import annotations

import torch
from torch import fx

from compile.aten import READERS, Import
from compile.capture import Captured
from compile.graph import Graph
from runtime.errors import UserError


def read_graph(captured: Captured) -> Graph:
    """Import a captured network.

    Raises:
        UserError: an operator is not known; the message names the node, the operator and the known ones.
    """
    state = Import(captured.module)
    input_name = ""
    output_name = ""
    for node in captured.module.graph.nodes:
        if node.op == "placeholder":
            input_name = node.name
            state.values[node] = node.name
            state.shapes[node.name] = captured.input_shape[1:]
        elif node.op == "call_function":
            _read_call(state, node)
        elif node.op == "output":
            result = node.args[0]
            output_name = state.value(result[0] if isinstance(result, (tuple, list)) else result)
    return Graph(input_name, output_name, tuple(state.nodes), state.shapes)


def _read_call(state: Import, node: fx.Node) -> None:
    if isinstance(node.target, torch._ops.OpOverload) and node.target in READERS:
        READERS[node.target](state, node)
        return
    known = ", ".join(sorted({str(target).removeprefix("aten.").split(".")[0] for target in READERS}))
    raise UserError(
        f"node {node.name!r} uses the operator {node.target}, which the native backend does not have "
        f"(it has {known}); use the onnxruntime or inductor backend for this network"
    )
