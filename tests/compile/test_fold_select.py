"""A choice of channels goes into the weights of the sparse convolutions that read it."""

from __future__ import annotations

import numpy as np
import torch
from graph_interpreter import run_graph
from support import capture_module, prune_randomly
from torch import Tensor, nn

from compile.from_torch import read_graph
from compile.graph import Conv, Graph
from compile.passes.simplify import simplify


class Shuffled(nn.Module):
    """A block of ShuffleNet V2: half of the channels pass, half are convolved, and all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed, convolved = x.chunk(2, 1)
        joined = torch.cat([passed, self.conv(convolved)], 1)
        shuffled = nn.functional.channel_shuffle(joined, 2)
        return self.last(torch.relu(self.norm(shuffled)))


def simplified(module: nn.Module, density: float) -> Graph:
    torch.manual_seed(0)
    prune_randomly(module, density)
    inputs = torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        expected = module.eval()(inputs).numpy()
    graph = simplify(read_graph(capture_module(module, (8, 5, 6), 2)))
    np.testing.assert_allclose(run_graph(graph, inputs.numpy()).reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    return graph


def choices(graph: Graph) -> int:
    return sum(isinstance(node, Conv) and node.op == "select" for node in graph.nodes)


def test_sparse_convolutions_take_the_choice_in() -> None:
    graph = simplified(Shuffled(), 0.3)
    convolution = next(node for node in graph.nodes if isinstance(node, Conv) and node.layer == "conv")
    assert convolution.weight.shape == (4, 8, 3, 3)
    assert not convolution.weight[:, :4].any()
    # the half that passes, and the shuffle, into which the normalisation went
    assert choices(graph) == 2


def test_a_dense_convolution_does_not_get_zeros_to_compute() -> None:
    graph = simplified(Shuffled(), 1.0)
    assert choices(graph) == 3
    assert next(node for node in graph.nodes if isinstance(node, Conv) and node.layer == "conv").weight.shape[1] == 4
