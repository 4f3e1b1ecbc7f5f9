"""Reads operators that move data about: as views where they are some, else on the numbers of the elements."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor, fx

from compile.aten.elements import Elements
from compile.aten.nodes import arguments, size_of
from compile.aten.state import Import, Reader
from runtime.errors import UserError

aten = torch.ops.aten

_INDEXED = (aten.index.Tensor, aten.index_select.default, aten.gather.default)


def moving(reader: Reader | None = None) -> Reader:
    """An operator that moves data: ``reader`` if it has a view or operation for it, else torch on element numbers."""

    def read(state: Import, node: fx.Node) -> None:
        first = node.args[0]
        if isinstance(first, fx.Node) and (first in state.scores or first in state.lengths):
            _of_scores(state, node, first)
            return
        held = [source for source in node.all_input_nodes if source in state.elements and source not in state.views]
        if reader is not None and not held:
            try:
                reader(state, node)
                return
            except UserError as refusal:
                if not _movable(state, node):
                    raise refusal
        _move(state, node)

    return read


def passing(reader: Reader) -> Reader:
    """An operator whose result is its first tensor, which waits for what it becomes part of if it did before."""

    def read(state: Import, node: fx.Node) -> None:
        first = node.args[0]
        assert isinstance(first, fx.Node)
        if first in state.scores:
            state.scores[node] = state.scores[first]
        elif first in state.elements and first not in state.views:
            state.elements[node] = state.elements[first]
        else:
            reader(state, node)

    return read


def one_result(reader: Reader) -> Reader:
    """One of the results of an operator that moves data, else what ``reader`` says."""

    def read(state: Import, node: fx.Node) -> None:
        source, index = node.args
        if isinstance(source, fx.Node) and source in state.several:
            assert isinstance(index, int)
            state.elements[node] = state.several[source][index]
            return
        reader(state, node)

    return read


def _movable(state: Import, node: fx.Node) -> bool:
    """Whether an operator's tensors all are the picture's or constants, so that numbers can stand for them."""
    return all(state.computed(source) or source in state.constants for source in node.all_input_nodes)


def _move(state: Import, node: fx.Node) -> None:
    sources = [source for source in node.all_input_nodes if source not in state.constants]
    if not sources or not _movable(state, node) or (node.target in _INDEXED and len(sources) > 1):
        state.view(next((source for source in sources if not state.computed(source)), None))
        raise UserError(f"node {node.name!r} ({node.target}) takes elements of a map at places computed at run time")
    if node.target is aten.pad.default and (arguments(node)[2] != "constant" or arguments(node)[3]):
        raise UserError(f"node {node.name!r} pads by {arguments(node)[2:]}; the native backend pads with zeros")
    if node.target is aten.constant_pad_nd.default and arguments(node)[2]:
        raise UserError(f"node {node.name!r} pads with {arguments(node)[2]}; the native backend pads with zeros")
    held = [_plain(state, source) if len(sources) > 1 else state.elements_of(source) for source in sources]
    by_node = dict(zip(sources, held, strict=True))

    def run(pick: str) -> Any:
        def operand(source: fx.Node) -> Tensor:
            if source in by_node:
                found: Tensor | None = getattr(by_node[source], pick)
                ids = by_node[source].ids
                return torch.zeros_like(ids, dtype=torch.float32) if found is None else found
            constant = state.constants[source]
            if node.target in _INDEXED:
                return constant
            return constant.to(torch.float32) if pick == "shift" else torch.zeros_like(constant, dtype=torch.int64)

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), operand)
        # the numbers may lie in another order than the values did in torch, where a view sufficed
        target = aten.reshape.default if node.target is aten.view.default else node.target
        assert callable(target)
        return target(*args, **kwargs)

    constants = len(sources) < len(node.all_input_nodes) and node.target not in _INDEXED
    shifted = constants or any(elements.shift is not None for elements in held)
    results = [run("ids"), run("shift") if shifted else None, run("lines") if held[0].lines is not None else None]
    memory = held[0].memory if _shares(node) else state.new_memory()
    if isinstance(results[0], Tensor):
        state.elements[node] = msgspec.structs.replace(
            held[0], ids=results[0], shift=results[1], lines=results[2], memory=memory
        )
        return
    state.several[node] = [
        msgspec.structs.replace(
            held[0],
            ids=ids,
            memory=memory,
            shift=None if results[1] is None else results[1][number],
            lines=None if results[2] is None else results[2][number],
        )
        for number, ids in enumerate(results[0])
    ]


def _plain(state: Import, node: fx.Node) -> Elements:
    """Elements without a factor or a length, computed where there is one: of several each could have its own."""
    held = state.elements_of(node)
    if held.factor == 1 and held.lines is None:
        return held
    state.view(node)
    return state.elements_of(node)


def _shares(node: fx.Node) -> bool:
    """Whether a result may share the memory of the first tensor."""
    assert isinstance(node.target, torch._ops.OpOverload)
    return any(result.alias_info is not None for result in node.target._schema.returns)


def _of_scores(state: Import, node: fx.Node, source: fx.Node) -> None:
    """Scores with other leading dimensions, lengths of vectors wherever they go, a copy of either."""
    size = size_of(node)
    if source in state.lengths:
        held = state.lengths[source]
        args, kwargs = fx.node.map_arg(
            (node.args, node.kwargs),
            lambda other: held.lines if other is source else torch.zeros(()).expand(size_of(other)),
        )
        assert callable(node.target)
        state.lengths[node] = msgspec.structs.replace(held, lines=node.target(*args, **kwargs))
        return
    scores = state.scores[source]
    if node.target in (aten.permute.default, aten.transpose.int) or size[-2:] != size_of(source)[-2:]:
        raise UserError(
            f"node {node.name!r} ({node.target}) makes {size} of the products of queries and keys {size_of(source)}; "
            f"the native backend has them with queries and keys as the last two dimensions"
        )
    bias = None if scores.bias is None else scores.bias.reshape(size)
    state.scores[node] = msgspec.structs.replace(scores, scale=scores.scale.reshape(size[:-2]), bias=bias)
