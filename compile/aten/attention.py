"""Reads attention: torch's own operator, and products of queries, keys and values with a softmax between them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from compile.aten.elements import Elements, Lengths, Scores
from compile.aten.heads import attend
from compile.aten.nodes import arguments, size_of
from compile.aten.state import Import
from runtime.errors import UserError

aten = torch.ops.aten


def scaled_dot_product(state: Import, node: fx.Node) -> None:
    """``torch.nn.functional.scaled_dot_product_attention`` with a fixed mask or none."""
    query, key, value, mask, dropout, causal, scale, grouped = arguments(node)
    if dropout or grouped:
        raise UserError(f"node {node.name!r}: the native backend's attention has no dropout and no shared heads")
    size = [*size_of(query)[:-1], size_of(key)[-2]]
    factor = 1 / math.sqrt(size_of(query)[-1]) if scale is None else float(scale)
    bias = None
    if causal:
        bias = torch.full(size[-2:], -math.inf).triu(1)
    if mask is not None:
        bias = torch.from_numpy(_constant(state, node, mask))
        if state.constants[mask].dtype == torch.bool:
            bias = torch.where(bias != 0, 0.0, -math.inf)
    scores = Scores(
        state.elements_of(query),
        state.elements_of(key),
        torch.full(size[:-2], factor),
        None if bias is None else bias.expand(size),
        weights=True,
    )
    attend(state, node, scores, _values(state, value))


def matmul(state: Import, node: fx.Node) -> None:
    """Queries with keys, or weights with values."""
    left, right = arguments(node)[:2]
    _product(state, node, left, right, keys_last=True)


def einsum(state: Import, node: fx.Node) -> None:
    """The same two products by their letters."""
    equation, operands, _ = arguments(node)
    terms, _, result = str(equation).replace(" ", "").partition("->")
    letters = terms.split(",")
    if len(operands) == 2 and len(letters) == 2 and all(len(set(term)) == len(term) for term in (*letters, result)):
        left, right = letters
        lead, shared = result[:-2], left[-1:]
        if left == lead + result[-2:-1] + shared and shared not in result:
            if right == lead + result[-1] + shared:
                _product(state, node, operands[0], operands[1], keys_last=False)
                return
            if right == lead + shared + result[-1]:
                _product(state, node, operands[0], operands[1], keys_last=True)
                return
    raise UserError(
        f"node {node.name!r} is einsum({equation!r}); the native backend has the products of attention, like "
        f"'bhid,bhjd->bhij' and 'bhij,bhjd->bhid'"
    )


def _product(state: Import, node: fx.Node, left: fx.Node, right: fx.Node, keys_last: bool) -> None:
    """``keys_last``: ``right`` is ``(..., D, keys)`` or ``(..., keys, values)``, else with these two exchanged."""
    if left in state.scores:
        if not keys_last or not state.scores[left].weights:
            raise UserError(f"node {node.name!r} multiplies products of queries and keys of which no softmax was taken")
        attend(state, node, state.scores[left], _values(state, right))
        return
    query, key = state.elements_of(left), state.elements_of(right)
    if key.ids.ndim != query.ids.ndim or key.ids.shape[:-2] != query.ids.shape[:-2] or query.ids.ndim < 3:
        raise UserError(
            f"node {node.name!r} multiplies {size_of(left)} by {size_of(right)}; the native backend multiplies queries "
            f"by keys of the same leading dimensions"
        )
    if keys_last:
        key = msgspec.structs.replace(
            key,
            **{
                name: None if tensor is None else tensor.transpose(-1, -2)
                for name, tensor in (("ids", key.ids), ("shift", key.shift), ("lines", key.lines))
            },
        )
    state.scores[node] = Scores(query, key, torch.ones(query.ids.shape[:-2]))


def softmax(state: Import, node: fx.Node) -> None:
    """Over the keys."""
    source, dimension = arguments(node)[:2]
    if source not in state.scores or int(dimension) % len(size_of(node)) != len(size_of(node)) - 1:
        raise UserError(
            f"node {node.name!r} is a softmax over dimension {dimension}; the native backend has it over the keys of "
            f"attention; at the end of a classifier leave it out, `st3 run` does it"
        )
    state.scores[node] = msgspec.structs.replace(state.scores[source], weights=True)


def scale_scores(state: Import, node: fx.Node, source: fx.Node, factor: object) -> None:
    """Scores times a number, or one number per head."""
    scores = state.scores[source]
    given = (
        torch.tensor(factor) if isinstance(factor, (int, float)) else torch.from_numpy(_constant(state, node, factor))
    )
    size = size_of(source)
    if scores.weights or size_of(node) != size or (given.ndim and any(length != 1 for length in given.shape[-2:])):
        raise UserError(
            f"node {node.name!r} multiplies products of queries and keys by {tuple(given.shape)}; the native backend "
            f"has one number for each head, before the softmax"
        )
    lead = given.reshape(given.shape[:-2]) if given.ndim >= 2 else given.reshape(())
    bias = None if scores.bias is None else scores.bias * given
    scale = (scores.scale * lead).to(torch.float32)
    state.scores[node] = msgspec.structs.replace(scores, scale=scale, bias=bias)


def add_to_scores(state: Import, node: fx.Node, source: fx.Node, term: object, factor: float) -> None:
    """Scores plus a constant: relative positions, masks."""
    scores = state.scores[source]
    if scores.weights or size_of(node) != size_of(source):
        raise UserError(
            f"node {node.name!r} adds to the weights of attention; the native backend adds before the softmax"
        )
    given = torch.from_numpy(_constant(state, node, term)) * factor
    given = given.expand(size_of(source))
    state.scores[node] = msgspec.structs.replace(scores, bias=given if scores.bias is None else scores.bias + given)


def _constant(state: Import, node: fx.Node, operand: object) -> NDArray[np.float32]:
    if isinstance(operand, (int, float)):
        return np.array(operand, np.float32)
    if not isinstance(operand, fx.Node) or operand not in state.constants:
        raise UserError(
            f"node {node.name!r} ({node.target}) combines products of queries and keys with {operand!r}, computed at "
            f"run time; the native backend has constants there"
        )
    array = state.array(operand)
    assert array is not None
    return array


def vector_norm(state: Import, node: fx.Node) -> None:
    """The length of each vector in the last dimension, by which it is then divided."""
    source, order, dimensions, keep = (*arguments(node)[:4],)
    listed = [dimensions] if isinstance(dimensions, int) else list(dimensions or [])
    last = len(size_of(source)) - 1
    if order not in (None, 2) or [int(number) % (last + 1) for number in listed] != [last] or not keep:
        raise UserError(
            f"node {node.name!r} is a norm of order {order} over {dimensions}; the native backend has the length of "
            f"the vectors in the last dimension (order 2, keepdim), to divide them by it"
        )
    ids = _settled(state, source).ids
    state.lengths[node] = Lengths(
        ids.reshape(-1, ids.shape[-1]), torch.arange(ids[..., 0].numel()).reshape(ids[..., :1].shape)
    )


def at_least(state: Import, node: fx.Node, low: float | None, high: float | None) -> None:
    """Lengths that are not below a small number."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if low is None or high is not None:
        raise UserError(f"node {node.name!r} clamps lengths to {low}, {high}; the native backend has a lower bound")
    state.lengths[node] = msgspec.structs.replace(state.lengths[source], epsilon=float(low))


def divide_by_length(state: Import, node: fx.Node, source: object, divisor: fx.Node) -> None:
    """Vectors divided by their own lengths."""
    lengths = state.lengths[divisor]
    held = _settled(state, source) if isinstance(source, fx.Node) and state.computed(source) else None
    size = size_of(node)
    own = held is not None and list(held.ids.shape) == size and lengths.lines.shape[-1] in (1, size[-1])
    lines = lengths.lines.expand(size) if own else lengths.lines
    if held is None or not own or not torch.equal(lengths.vectors[lines[..., 0]], held.ids):
        raise UserError(f"node {node.name!r} divides {source!r} by lengths that are not its own vectors'")
    state.elements[node] = msgspec.structs.replace(
        held, lines=lines, epsilon=lengths.epsilon, memory=state.new_memory()
    )


def _settled(state: Import, node: fx.Node) -> Elements:
    """A torch node's elements, computed first where something was to be done with them."""
    held = state.elements_of(node)
    if held.shift is not None or held.factor != 1 or held.lines is not None:
        state.view(node)
        held = state.elements_of(node)
    return held


def _values(state: Import, node: fx.Node) -> Elements:
    """What is averaged, computed first if it was multiplied by a number."""
    held = state.elements_of(node)
    if held.factor != 1:
        state.view(node)
        held = state.elements_of(node)
    return held
