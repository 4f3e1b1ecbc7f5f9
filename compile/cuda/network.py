"""The graph as a torch module in channels-last memory: chosen formats for its layers, plain ops for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compile.cuda.formats.dense import ACTIVATIONS
from compile.cuda.problem import DTYPES
from compile.cuda.results import Shapes, as_answer
from compile.cuda.sites import is_scale
from compile.graph import (
    AdaptivePool,
    Concat,
    Conv,
    Elementwise,
    Graph,
    LayerNorm,
    Mean,
    Node,
    Pool,
    Resize,
    Shape,
    reads,
)

NODES = (AdaptivePool, Concat, Conv, Elementwise, LayerNorm, Mean, Pool, Resize)
"""What there are modules for."""


@final
class GpuNetwork(nn.Module):
    """``forward(x)``: float32 ``(B, C, H, W)`` in, float32 of the network's own output shapes out."""

    def __init__(self, graph: Graph, layers: Mapping[str, nn.Module], dtype: str, output_shapes: Shapes) -> None:
        super().__init__()
        self.graph, self.dtype, self.output_shapes = graph, DTYPES[dtype], output_shapes
        self.nodes = nn.ModuleList(_module(node, graph.shapes, layers, self.dtype) for node in graph.nodes)
        self.last_use = _last_uses(graph)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """See the class."""
        values = {self.graph.input: x.to(self.dtype).contiguous(memory_format=torch.channels_last)}
        for index, (node, module) in enumerate(zip(self.graph.nodes, self.nodes, strict=True)):
            values[node.output] = _call(node, module, values)
            for name in self.last_use.get(index, ()):
                del values[name]
        return as_answer([values[name] for name in self.graph.outputs], self.output_shapes)


def _last_uses(graph: Graph) -> dict[int, tuple[str, ...]]:
    """Per node the values that nobody reads after it."""
    last = {value: index for index, node in enumerate(graph.nodes) for value in reads(node)}
    found: dict[int, tuple[str, ...]] = {}
    for value, index in last.items():
        if value not in graph.outputs:
            found[index] = (*found.get(index, ()), value)
    return found


def _call(node: Node, module: nn.Module, values: Mapping[str, Tensor]) -> Tensor:
    if isinstance(node, Conv):
        residual, factor = (None if name is None else values[name] for name in (node.residual, node.factor))
        result: Tensor = module(values[node.input], residual, factor)
        return result
    made: Tensor = module(*(values[name] for name in reads(node)))
    return made


def _module(node: Node, shapes: Mapping[str, Shape], layers: Mapping[str, nn.Module], dtype: torch.dtype) -> nn.Module:
    if isinstance(node, Conv):
        return layers[node.output] if not is_scale(node) else _Scale(node, dtype)
    if isinstance(node, Pool):
        return _MaxPool(node) if node.maximum else _AveragePool(node, shapes, dtype)
    if isinstance(node, LayerNorm):
        return _ChannelNorm(node, dtype)
    if isinstance(node, Resize):
        return _Resize(node, dtype)
    return _Plain(node)


@final
class _Plain(nn.Module):
    """A node without numbers of its own."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node

    def forward(self, *inputs: Tensor) -> Tensor:
        node = self.node
        if isinstance(node, Concat):
            return torch.cat(inputs, 1)
        x = inputs[0]
        if isinstance(node, Mean):
            return x.mean((2, 3), keepdim=True)
        if isinstance(node, AdaptivePool):
            pool = F.adaptive_max_pool2d if node.maximum else F.adaptive_avg_pool2d
            y: Tensor = pool(x, (node.rows, node.columns))
            return y
        assert isinstance(node, Elementwise)
        if node.right is not None:
            x = x + inputs[1] if node.op == "add" else x * inputs[1]
        return ACTIVATIONS[node.activation](x)


@final
class _Resize(nn.Module):
    """Two products with matrices."""

    rows: Tensor
    columns: Tensor

    def __init__(self, node: Resize, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor(node.rows).to(dtype))
        self.register_buffer("columns", torch.tensor(node.columns).T.contiguous().to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows @ x @ self.columns


@final
class _Scale(nn.Module):
    """``activation(x * weight + bias + residual) * factor`` per channel."""

    weight: Tensor
    bias: Tensor

    def __init__(self, node: Conv, dtype: torch.dtype) -> None:
        super().__init__()
        self.activation = node.activation
        self.register_buffer("weight", torch.tensor(node.weight).reshape(1, -1, 1, 1).to(dtype))
        self.register_buffer("bias", torch.tensor(node.bias).reshape(1, -1, 1, 1).to(dtype))

    def forward(self, x: Tensor, residual: Tensor | None, factor: Tensor | None) -> Tensor:
        y = x * self.weight + self.bias
        y = ACTIVATIONS[self.activation](y if residual is None else y + residual)
        return y if factor is None else y * factor


@final
class _MaxPool(nn.Module):
    def __init__(self, node: Pool) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        node = self.node
        top, left, bottom, right = node.padding
        within = 2 * top <= node.kernel[0] and 2 * left <= node.kernel[1]  # all that torch's own padding may be
        if (top, left) == (bottom, right) and within:
            return F.max_pool2d(x, node.kernel, node.stride, (top, left), node.dilation)
        x = F.pad(x, (left, right, top, bottom), value=float("-inf"))
        return F.max_pool2d(x, node.kernel, node.stride, 0, node.dilation)


@final
class _AveragePool(nn.Module):
    """The mean over whole windows, then times what a window counts: ``scale`` is ``(1, 1, P, Q)``."""

    scale: Tensor
    ones: Tensor

    def __init__(self, node: Pool, shapes: Mapping[str, Shape], dtype: torch.dtype) -> None:
        super().__init__()
        self.node = node
        self.counts = node.counted is not None
        self.spread = node.dilation != (1, 1)
        channels, height, width = shapes[node.input]
        self.channels = channels
        if self.counts:
            self.register_buffer("scale", _shares(node, height, width).reciprocal().to(dtype))
        if self.spread:
            self.register_buffer("ones", torch.ones(channels, 1, *node.kernel, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        node = self.node
        top, left, bottom, right = node.padding
        x = F.pad(x, (left, right, top, bottom))
        if self.spread:
            area = node.kernel[0] * node.kernel[1]
            y = F.conv2d(x, self.ones, None, node.stride, 0, node.dilation, self.channels) / area
        else:
            y = F.avg_pool2d(x, node.kernel, node.stride)
        return y * self.scale if self.counts else y


def _shares(node: Pool, height: int, width: int) -> Tensor:
    """The part of each window that counts, ``(1, 1, P, Q)``."""
    assert node.counted is not None
    top, left, bottom, right = node.counted
    ones = F.pad(torch.ones(1, 1, height, width), (left, right, top, bottom), value=1.0)
    rest = [a - b for a, b in zip(node.padding, node.counted, strict=True)]
    ones = F.pad(ones, (rest[1], rest[3], rest[0], rest[2]))
    window = torch.ones(1, 1, *node.kernel) / (node.kernel[0] * node.kernel[1])
    return F.conv2d(ones, window, None, node.stride, 0, node.dilation)


@final
class _ChannelNorm(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, node: LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.epsilon = node.epsilon
        self.register_buffer("weight", torch.tensor(node.weight).to(dtype))
        self.register_buffer("bias", torch.tensor(node.bias).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.epsilon)
        return y.permute(0, 3, 1, 2)
