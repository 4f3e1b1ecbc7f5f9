"""Folding and fusing keep the function and the zeros."""

from __future__ import annotations

import numpy as np
import torch
from support import capture_module, prune_randomly
from torch import nn

from compile.from_torch import read_graph
from compile.graph import Conv, Elementwise, Mean, Pool
from compile.layers import read_layers
from compile.passes.fuse_epilogue import fuse_epilogue


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + x)


def test_folding_keeps_outputs_and_writes_plus_zero() -> None:
    torch.manual_seed(0)
    module = prune_randomly(Block(), 0.4).eval()
    captured = capture_module(module, (4, 9, 7), 2)
    inputs = torch.randn(2, 4, 9, 7)
    with torch.no_grad():
        assert torch.allclose(captured.module(inputs), module(inputs), atol=1e-5)
    assert not any("batch_norm" in str(node.target) for node in captured.module.graph.nodes)
    for layer, original in zip(read_layers(captured), (module.conv1, module.conv2), strict=True):
        zeros = original.weight.detach().numpy() == 0
        assert np.array_equal(layer.weight == 0, zeros)
        # a negative scale makes -0 of a zero; builders look for +0
        assert not np.signbit(layer.weight[zeros]).any()


def test_folding_keeps_two_to_four() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 4, 3, bias=False)
    with torch.no_grad():
        conv.weight[:, 0::4] = 0
        conv.weight[:, 3::4] = 0
    captured = capture_module(prune_randomly(nn.Sequential(conv, nn.BatchNorm2d(4)), 1.0), (8, 6, 6), 1)
    weight = read_layers(captured)[0].weight
    groups = weight.transpose(0, 2, 3, 1).reshape(-1, 4)
    assert (np.count_nonzero(groups, axis=1) == 2).all()


def test_a_shared_convolution_is_not_folded_twice(compiler: object) -> None:
    torch.manual_seed(0)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.one, self.two = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(self.conv(x)) + self.two(self.conv(x + 1.0 * x))

    module = prune_randomly(Shared(), 1.0).eval()
    captured = capture_module(module, (2, 5, 5), 1)
    inputs = torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        assert torch.allclose(captured.module(inputs), module(inputs), atol=1e-5)


def test_epilogues_are_fused_into_convolutions() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(Block(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    graph = fuse_epilogue(read_graph(capture_module(module, (4, 8, 8), 1)))
    first, second, pool, mean, last = graph.nodes
    assert isinstance(first, Conv)
    assert (first.activation, first.residual, first.layer) == ("relu", None, "0.conv1")
    assert isinstance(second, Conv)
    assert (second.activation, second.residual) == ("relu", graph.input)
    assert isinstance(pool, Pool)
    assert isinstance(mean, Mean)
    assert isinstance(last, Conv)
    assert (last.op, last.layer, last.output) == ("linear", "4", graph.output)


def test_a_value_that_others_read_is_not_fused_away() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.relu(y) + y

    graph = fuse_epilogue(read_graph(capture_module(Fork(), (2, 4, 4), 1)))
    assert [type(node) for node in graph.nodes] == [Conv, Elementwise, Elementwise]
