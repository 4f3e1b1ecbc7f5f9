"""Reads an ONNX model into the compiler's own graph, by way of torch's operators."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import NDArray
from onnx import NodeProto
from torch import fx

from compile.aten.readers import READERS as TORCH_READERS
from compile.from_torch import read_nodes
from compile.graph import Graph
from compile.onnx_file import OnnxFile
from compile.onnx_ops import attention, functions, linear, moves, normalisations, resizing, shapes, windows
from compile.onnx_ops.normalisations import Normalisation, find_normalisation, read_normalisation
from compile.onnx_ops.state import Reader, Translation, evaluate, refusal
from compile.passes.fold_affine import fold_affine
from runtime.errors import UserError

READERS: dict[str, Reader] = {
    **windows.READERS,
    **linear.READERS,
    **normalisations.READERS,
    **functions.READERS,
    **shapes.READERS,
    **moves.READERS,
    **resizing.READERS,
    **attention.READERS,
}
_TARGETS = {**TORCH_READERS, **windows.TARGETS, **resizing.TARGETS}

_ODD = (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError, AssertionError, MemoryError)
"""What Python, NumPy and torch raise at numbers that no exporter writes, such as a damaged file may hold."""

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinear", "Integer")


def read_graph(file: OnnxFile, batch_size: int) -> Graph:
    """Import a network for a batch size.

    Raises:
        UserError: the network holds something that the graph does not have; the message names the node, the operator
            and what there is.
    """
    constants = dict(file.constants)
    nodes = _fold_constants(file.model.graph.node, constants, file.opset)
    made = {output: node for node in nodes for output in node.output}
    found = {node.output[0]: find_normalisation(node, made, constants, file.opset) for node in nodes}
    patterns = {output: pattern for output, pattern in found.items() if pattern is not None}
    live, users = _live(nodes, patterns, file.output_names)
    state = Translation(file.opset, users)
    state.constants = constants
    shape = (file.batch or batch_size, *file.shape)
    state.input(file.input_name, shape)
    for node in live:
        _translate(state, node, patterns.get(node.output[0]))
    state.graph.output(tuple(_result(state, file, name) for name in file.output_names))
    try:
        graph = read_nodes(state.graph.nodes, state.weights, shape, file.output_names, _TARGETS)
    except UserError as error:
        raise UserError(_in_words_of_onnx(str(error), state.origins)) from error
    except _ODD as error:
        raise UserError(f"{file.path} has nodes whose shapes do not fit each other: {_first_line(error)}") from error
    return fold_affine(graph)


def _translate(state: Translation, node: NodeProto, pattern: Normalisation | None) -> None:
    """Read a node, which may be the end of a pattern of several."""
    state.reading = node
    try:
        if pattern is not None:
            read_normalisation(state, node, pattern)
        else:
            _read(state, node)
    except _ODD as error:
        what = f"has inputs or attributes that it cannot have: {_first_line(error)}; export the network again"
        raise refusal(node, what) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _result(state: Translation, file: OnnxFile, name: str) -> fx.Node:
    if name in state.constants:
        raise UserError(f"{file.path} returns {name!r}, which is constant; cut it off (onnx.utils.extract_model)")
    return state.value(name)


def _in_words_of_onnx(message: str, origins: dict[str, str]) -> str:
    """A refusal of torch's operators that names the file's nodes."""

    def named(found: re.Match[str]) -> str:
        return origins.get(found[1], found[0])

    return re.sub(r"node '(\w+)'(?: \((?:[\w.]+|<function [^>]*>)\))?", named, message)


def _read(state: Translation, node: NodeProto) -> None:
    if node.input and all(name in state.constants for name in node.input if name):
        state.constants.update(evaluate(node, state.constants, state.opset))
        return
    known = node.domain in ("", "ai.onnx") and node.op_type in READERS
    if known:
        READERS[node.op_type](state, node)
        return
    if node.op_type.startswith(_QUANTISED) or node.op_type.endswith(_QUANTISED):
        raise refusal(node, "belongs to a quantised (int8) network; st3 compiles float32: give it the network before")
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    hint = "; give the file as it was before ONNX Runtime optimised it" if node.domain == "com.microsoft" else ""
    raise UserError(
        f"node {node.name or node.output[0]!r} uses the operator {name}, which the native backend does not have "
        f"(it has {', '.join(sorted(READERS))}){hint}"
    )


def _fold_constants(nodes: Iterable[NodeProto], constants: dict[str, NDArray[Any]], opset: int) -> list[NodeProto]:
    """Compute what depends on constants alone, into ``constants``; returns the other nodes."""
    rest = []
    for node in nodes:
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant" or (inputs and all(name in constants for name in inputs)):
            constants.update(evaluate(node, constants, opset))
        else:
            rest.append(node)
    return rest


def _live(
    nodes: Sequence[NodeProto], patterns: dict[str, Normalisation], outputs: Sequence[str]
) -> tuple[list[NodeProto], Counter[str]]:
    """The nodes that the answers need, in order, and how often they read each value."""
    users: Counter[str] = Counter(outputs)
    live = []
    for node in reversed(nodes):
        if any(name in users for name in node.output):
            live.append(node)
            pattern = patterns.get(node.output[0])
            users.update([pattern.input] if pattern else [name for name in node.input if name])
    return live[::-1], users
