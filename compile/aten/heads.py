"""Finds the heads and windows of attention in the numbers of its queries, keys and values."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from compile.aten.elements import Elements, Ids, Pictured, Run, Scores, Source, picture
from compile.aten.nodes import size_of
from compile.aten.state import Import
from compile.graph import Attention, Conv
from runtime.errors import UserError


class _Operand(msgspec.Struct, frozen=True):
    """Queries, keys or values: of each leading index the head and the window; their channels and pixels."""

    source: Source
    head: Ids
    window: Ids
    channels: Ids
    pixels: Ids


def attend(state: Import, node: fx.Node, scores: Scores, values: Elements) -> None:
    """Append the attention with the weights of ``scores``; a ``UserError`` where it has other heads or windows."""
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
    names, firsts = zip(
        *(_placed(state, node, operand, part) for operand, part in ((query, "q"), (key, "k"), (value, "v"))),
        strict=True,
    )
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
            names[0],
            names[1],
            names[2],
            firsts=(firsts[0], firsts[1], firsts[2]),
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


def _whole(node: fx.Node, held: Elements) -> Elements:
    """Elements as they are: nothing added, and divided by the lengths of whole vectors if at all."""
    if held.shift is not None:
        raise UserError(
            f"node {node.name!r} is attention of tokens to which constants were added after a cut into heads; "
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
    """The value that has an operand's windows as its rows; the first channel of its heads, which follow each other."""
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
        f"node {node.name!r} ({node.target}) is attention whose operands are no heads (channels of a map) "
        f"and windows (pixels of a map) of one picture; the native backend has no other"
    )
