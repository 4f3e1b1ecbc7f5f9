"""Reads attention: torch's own operator, and products of queries, keys and values with a softmax between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from compile.aten.elements import Elements, Ids, Pictured, Run, Source, picture
from compile.aten.state import Import, Lengths, Scores, arguments, size_of
from compile.graph import Attention, Conv
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
    _attend(state, node, scores, _values(state, value))


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
                _product(state, node, *operands, keys_last=False)
                return
            if right == lead + shared + result[-1]:
                _product(state, node, *operands, keys_last=True)
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
        _attend(state, node, state.scores[left], _values(state, right))
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
    given = torch.tensor(factor) if isinstance(factor, (int, float)) else torch.from_numpy(_constant(state, node, factor))
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
        raise UserError(f"node {node.name!r} adds to the weights of attention; the native backend adds before the softmax")
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
            f"node {node.name!r} is a norm of order {order} over {dimensions}; the native backend has the length of the "
            f"vectors in the last dimension (order 2, keepdim), to divide them by it"
        )
    state.lengths[node] = Lengths(source)


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
    if lengths.source is not source:
        raise UserError(f"node {node.name!r} divides {source!r} by the lengths of {lengths.source.name!r}, not its own")
    held = state.elements_of(lengths.source)
    if held.shift is not None or held.factor != 1 or held.lines is not None:
        state.view(lengths.source)
        held = state.elements_of(lengths.source)
    size = held.ids.shape
    lines = torch.arange(math.prod(size[:-1])).reshape(*size[:-1], 1).expand(size)
    state.elements[node] = msgspec.structs.replace(
        held, lines=lines, epsilon=lengths.epsilon, memory=state.new_memory()
    )


class _Operand(msgspec.Struct, frozen=True):
    """Queries, keys or values: of each leading index the head and the window; their channels and pixels."""

    source: Source
    head: Ids
    window: Ids
    channels: Ids
    pixels: Ids


def _attend(state: Import, node: fx.Node, scores: Scores, values: Elements) -> None:
    given = [_whole(node, held) for held in (scores.query, scores.key, values)]
    found = [picture(held.ids, state.sources(), state.batch) for held in given]
    operands = [None if part is None else _operand(part) for part in found]
    query, key, value = operands
    if query is None or key is None or value is None or found[0] is None:
        raise _strange(node)
    same = all(
        np.array_equal(query.head, other.head)
        and np.array_equal(query.window, other.window)
        and query.pixels.shape == other.pixels.shape
        for other in (key, value)
    )
    if not same or query.channels.shape != key.channels.shape:
        raise _strange(node)
    names, firsts = zip(*(_placed(state, node, operand, part) for operand, part in zip(operands, "qkv", strict=True)), strict=True)
    heads, windows, tokens = len(query.channels), len(query.pixels), query.pixels.shape[1]
    scale, bias = _per_head(node, scores, found[0], query)
    cosine = scores.query.lines is not None
    if cosine != (scores.key.lines is not None) or values.lines is not None:
        raise _strange(node)
    depth = value.channels.shape[1]
    shape = (heads * depth, windows, tokens)
    state.append(
        Attention(
            node.name,
            *names,
            firsts=firsts,
            sizes=(query.channels.shape[1], depth),
            scale=scale,
            bias=bias,
            epsilon=max(scores.query.epsilon or 0.0, 1e-30) if cosine else None,
        ),
        shape,
    )
    source = state.sources()[-1]
    channel = query.head[:, None, None] * depth + np.arange(depth)
    pixel = query.window[:, None, None] * tokens + np.arange(tokens)[:, None]
    element = torch.from_numpy(channel * windows * tokens + pixel)
    ids = source.first + element[None] + source.size * torch.arange(state.batch).reshape(-1, 1, 1, 1)
    ids = found[0].of_batch(ids.reshape(state.batch, *found[0].element.shape[:-2], tokens, depth))
    state.elements[node] = Elements(ids.reshape(size_of(node)), state.new_memory())


def _values(state: Import, node: fx.Node) -> Elements:
    """What is averaged, computed first if it was multiplied by a number."""
    held = state.elements_of(node)
    if held.factor != 1:
        state.view(node)
        held = state.elements_of(node)
    return held


def _whole(node: fx.Node, held: Elements) -> Elements:
    """Elements as they are: nothing added, and divided by the lengths of whole vectors if at all."""
    if held.shift is not None:
        raise UserError(
            f"node {node.name!r} is attention of tokens to which constants were added after they were divided into heads; "
            f"the native backend has that before the linear layer"
        )
    if held.lines is not None and not bool((held.lines == held.lines[..., :1]).all()):
        raise _strange(node)
    return held


def _operand(found: Pictured) -> _Operand | None:
    """``(..., tokens, size)``; ``None`` if channels and pixels are not one of heads each, one of windows each."""
    count = found.element.ndim
    if len(found.sources) != 1 or (found.element < 0).any() or found.axis >= count - 2:
        return None
    shape = (-1, *found.element.shape[-2:])
    channel, pixel = (array.reshape(shape) for array in found.coordinates())
    if (channel != channel[:, :1]).any() or (pixel != pixel[:, :, :1]).any():
        return None
    head, channels = _distinct(channel[:, 0])
    window, pixels = _distinct(pixel[:, :, 0])
    pairs = {(int(h), int(w)) for h, w in zip(head, window, strict=True)}
    if len(pairs) != len(head) or len(head) != len(channels) * len(pixels):
        return None
    return _Operand(found.sources[0], head, window, channels, pixels)


def _distinct(rows: Ids) -> tuple[Ids, Ids]:
    """The number of each row among the distinct ones, and these in the order in which they come."""
    numbers: dict[bytes, int] = {}
    index = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in np.ascontiguousarray(rows)])
    first = [int(np.argmax(index == number)) for number in range(len(numbers))]
    return index, rows[first]


def _placed(state: Import, node: fx.Node, operand: _Operand, part: str) -> tuple[str, int]:
    """The value that has an operand's windows as its rows, and the first of its heads' channels, one head after another."""
    windows, tokens = operand.pixels.shape
    source = operand.source
    shape = (source.shape[0], windows, tokens)
    name = state.move(f"{node.name}_{part}_windows", Run(source, 0, source.shape[0], operand.pixels), shape)
    flat = operand.channels.reshape(-1)
    if np.array_equal(flat, flat[0] + np.arange(len(flat))):
        return name, int(flat[0])
    weight = np.zeros((len(flat), source.shape[0], 1, 1), np.float32)
    weight[np.arange(len(flat)), flat] = 1
    chosen = f"{node.name}_{part}_heads"
    bias = np.zeros(len(flat), np.float32)
    state.append(Conv(chosen, name, chosen, "select", weight, bias), (len(flat), windows, tokens))
    return chosen, 0


def _per_head(
    node: fx.Node, scores: Scores, found: Pictured, query: _Operand
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """``(heads,)`` factors, and ``(windows or 1, heads or 1, queries, keys)`` terms."""
    lead = found.element.shape[:-2]
    scale = found.of_picture(scores.scale * scores.query.factor * scores.key.factor)
    if scale is None:
        raise _strange(node)
    heads, windows = len(query.channels), len(query.pixels)
    per_head = np.zeros(heads, np.float32)
    per_head[query.head] = scale.reshape(-1)
    if not np.array_equal(per_head[query.head], scale.reshape(-1)):
        raise _strange(node)
    if scores.bias is None:
        return per_head, None
    bias = found.of_picture(scores.bias)
    if bias is None:
        raise _strange(node)
    full = np.empty((windows, heads, *bias.shape[-2:]), np.float32)
    full[query.window, query.head] = bias.reshape(math.prod(lead), *bias.shape[-2:])
    full = full[:1] if (full == full[:1]).all() else full
    return per_head, np.ascontiguousarray(full[:, :1] if (full == full[:, :1]).all() else full)


def _strange(node: fx.Node) -> UserError:
    return UserError(
        f"node {node.name!r} ({node.target}) is attention whose queries, keys and values are no heads (channels of a map) "
        f"and windows (pixels of a map) of one picture; the native backend has no other"
    )
