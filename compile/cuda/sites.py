"""The places of a graph that have weights, as the problems that formats are asked about."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from compile.cuda.problem import ConvProblem
from compile.graph import Conv, Graph

Sides = tuple[int, int, int, int]


class Site(msgspec.Struct, frozen=True):
    """One layer at one place.

    Attributes:
        output: the value that it makes; the key of what is chosen for it.
        layer: the module's qualified name; a module that runs twice has two sites.
        weight: ``(N, C/groups, R, S)`` float32 on the CPU, in the order that ``problem`` reads.
        bias: ``(N,)`` float32.
        problem: what is computed.
        pad: zeros added before (top, left, bottom, right), where the layer's padding is uneven.
        flatten: whether the map becomes one pixel first, its channels innermost: a layer as large as its map.
    """

    output: str
    layer: str
    weight: Tensor
    bias: Tensor
    problem: ConvProblem
    pad: Sides = (0, 0, 0, 0)
    flatten: bool = False

    @property
    def rounded(self) -> Tensor:
        """The weight in the problem's dtype, every -0 made +0: formats look for exact zeros."""
        return self.weight.to(self.problem.torch_dtype) + 0.0

    @property
    def underflows(self) -> int:
        """Weights that are not zero and become zero in the problem's dtype."""
        return int(((self.rounded == 0) & (self.weight != 0)).sum())


def is_scale(node: Conv) -> bool:
    """Whether a convolution is one factor and one shift per channel, which needs no kernel of its own."""
    plain = node.stride == (1, 1) and node.padding == (0, 0, 0, 0)
    return plain and node.weight.shape[1:] == (1, 1, 1) and node.groups == len(node.weight) > 1


def sites(graph: Graph, batch: int, dtype: str) -> dict[str, Site]:
    """Every layer of a graph by its output; scales and shifts per channel are none."""
    found = {}
    for node in graph.nodes:
        if isinstance(node, Conv) and not is_scale(node):
            found[node.output] = _site(node, graph, batch, dtype)
    return found


def _site(node: Conv, graph: Graph, batch: int, dtype: str) -> Site:
    channels, height, width = graph.shapes[node.input]
    weight, pad = torch.tensor(node.weight), node.padding
    flatten = _is_whole_map(node, height, width)
    if flatten:
        weight = weight.permute(0, 2, 3, 1).reshape(len(weight), -1, 1, 1).contiguous()
        channels, height, width = height * width * channels, 1, 1
    even = (pad[0], pad[1]) == (pad[2], pad[3])
    if not even:
        height, width = height + pad[0] + pad[2], width + pad[1] + pad[3]
    problem = ConvProblem(
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        outputs=len(weight),
        kernel=(weight.shape[2], weight.shape[3]),
        stride=(1, 1) if flatten else node.stride,
        padding=(pad[0], pad[1]) if even else (0, 0),
        dilation=(1, 1) if flatten else node.dilation,
        groups=node.groups,
        activation=node.activation,
        residual=node.residual is not None,
        dtype=dtype,
    )
    sides = (0, 0, 0, 0) if even else pad
    return Site(node.output, node.layer, weight, torch.tensor(node.bias), problem, sides, flatten)


def _is_whole_map(node: Conv, height: int, width: int) -> bool:
    """Whether a layer reads its whole map at once, as a linear layer after a flattened map does."""
    whole = node.weight.shape[2:] == (height, width) != (1, 1) and node.padding == (0, 0, 0, 0)
    return whole and node.groups == 1
