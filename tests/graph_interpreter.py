"""Computes the compiler's graph with torch, node by node, so that a graph can be tested without a C++ compiler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compile.graph import (
    AdaptivePool,
    Attention,
    Concat,
    Conv,
    Elementwise,
    Graph,
    LayerNorm,
    Mean,
    Move,
    Node,
    Pool,
    Resize,
    Shape,
)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
}


def run_graph(graph: Graph, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The graph's first answer ``(B, C, H, W)`` to ``inputs`` ``(B, C, H, W)``; checks every shape on the way."""
    return run_outputs(graph, inputs)[0]


def run_outputs(graph: Graph, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """All answers."""
    values = {graph.input: torch.from_numpy(inputs)}
    with torch.no_grad():
        for node in graph.nodes:
            value = _compute(node, values, graph.shapes[node.output])
            assert tuple(value.shape[1:]) == graph.shapes[node.output], (
                f"{node.output} has another shape than the graph"
            )
            assert node.output not in values, f"{node.output} is computed twice"
            values[node.output] = value
    return [values[name].numpy() for name in graph.outputs]


def _compute(node: Node, values: dict[str, Tensor], shape: Shape) -> Tensor:
    if isinstance(node, Conv):
        return _conv(node, values)
    if isinstance(node, Pool):
        return _pool(node, values[node.input])
    if isinstance(node, AdaptivePool):
        pool = F.adaptive_max_pool2d if node.maximum else F.adaptive_avg_pool2d
        return pool(values[node.input], (node.rows, node.columns))
    if isinstance(node, Resize):
        return torch.tensor(node.rows) @ values[node.input] @ torch.tensor(node.columns).T
    if isinstance(node, Mean):
        return values[node.input].mean((2, 3), keepdim=True)
    if isinstance(node, Elementwise):
        value = values[node.left]
        if node.right is not None:
            other = values[node.right]
            assert other.shape[1] == value.shape[1]
            value = value + other if node.op == "add" else value * other
        return _ACTIVATIONS[node.activation](value)
    if isinstance(node, Concat):
        return torch.cat([values[name] for name in node.inputs], 1)
    if isinstance(node, Move):
        return _move(node, values[node.input], shape)
    if isinstance(node, Attention):
        return _attention(node, values)
    assert isinstance(node, LayerNorm)
    x = values[node.input].permute(0, 2, 3, 1)
    weight, bias = torch.tensor(node.weight), torch.tensor(node.bias)
    return F.layer_norm(x, x.shape[-1:], weight, bias, node.epsilon).permute(0, 3, 1, 2)


def _move(node: Move, x: Tensor, shape: Shape) -> Tensor:
    pixels = F.pad(x.flatten(2), (0, 1))[:, node.first : node.first + shape[0], torch.tensor(node.positions)]
    value = pixels.reshape(len(x), *shape)
    return value if node.shift is None else value + torch.tensor(node.shift)


def _attention(node: Attention, values: dict[str, Tensor]) -> Tensor:
    def heads(name: str, first: int, size: int) -> Tensor:
        """``(B, windows, heads, tokens, size)``."""
        part = values[name][:, first : first + len(node.scale) * size]
        return part.unflatten(1, (len(node.scale), size)).permute(0, 3, 1, 4, 2)

    names = ((node.query, node.sizes[0]), (node.key, node.sizes[0]), (node.value, node.sizes[1]))
    query, key, value = (heads(name, first, size) for (name, size), first in zip(names, node.firsts, strict=True))
    if node.epsilon is not None:
        query, key = F.normalize(query, dim=-1, eps=node.epsilon), F.normalize(key, dim=-1, eps=node.epsilon)
    scores = query @ key.transpose(-1, -2) * torch.tensor(node.scale)[:, None, None]
    if node.bias is not None:
        scores = scores + torch.tensor(node.bias)
    return (scores.softmax(-1) @ value).permute(0, 2, 4, 1, 3).flatten(1, 2)


def _conv(node: Conv, values: dict[str, Tensor]) -> Tensor:
    top, left, bottom, right = node.padding
    x = F.pad(values[node.input], (left, right, top, bottom))
    weight, bias = torch.tensor(node.weight), torch.tensor(node.bias)
    value = F.conv2d(x, weight, bias, node.stride, 0, node.dilation, node.groups)
    if node.residual is not None:
        value = value + values[node.residual]
    value = _ACTIVATIONS[node.activation](value)
    return value if node.factor is None else value * values[node.factor]


def _pool(node: Pool, x: Tensor) -> Tensor:
    if node.maximum:
        return _windows(node, x, float("-inf")).amax((-2, -1))
    total = _windows(node, x, 0.0).sum((-2, -1))
    if node.counted is None:
        return total / (node.kernel[0] * node.kernel[1])
    # ones where a position counts, zeros in the rest of the padding
    top, left, bottom, right = node.counted
    ones = F.pad(torch.ones_like(x), (left, right, top, bottom), value=1.0)
    rest = tuple(a - b for a, b in zip(node.padding, node.counted, strict=True))
    return total / _windows(node, ones, 0.0, rest).sum((-2, -1))


def _windows(node: Pool, x: Tensor, fill: float, padding: tuple[int, ...] | None = None) -> Tensor:
    """``(B, C, H, W, R, S)``: torch's average pooling knows no dilation, so windows get dimensions of their own."""
    top, left, bottom, right = node.padding if padding is None else padding
    x = F.pad(x, (left, right, top, bottom), value=fill)
    for axis in (0, 1):
        length = node.dilation[axis] * (node.kernel[axis] - 1) + 1
        x = x.unfold(2 + axis, length, node.stride[axis])
    return x[..., :: node.dilation[0], :: node.dilation[1]]
