"""Squeeze-excite, layer norm, concatenation, gates and uneven pooling in generated code, against torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import EVERY, digits, title
from support import Compiler, assert_same_bits, capture_module, prune_randomly
from torch import Tensor, nn

from compile.from_torch import read_graph
from compile.graph import Conv, Elementwise
from compile.native.geometry import candidates
from compile.native.isa import Isa
from compile.native.plan import Plan, make_plan
from compile.native.steps import Compute
from compile.passes.simplify import simplify


class Excited(nn.Module):
    """A convolution, squeeze-excite, layer norm over the channels of each pixel, and a gate of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 3, padding=1)
        self.less, self.more = nn.Conv2d(9, 4, 1), nn.Conv2d(4, 9, 1)
        self.norm, self.linear = nn.LayerNorm(9, eps=1e-6), nn.Linear(9, 12)
        self.scale = nn.Parameter(torch.linspace(-1, 1, 9).reshape(9, 1, 1))
        self.depthwise = nn.Conv2d(9, 9, 5, padding=2, groups=9)
        self.left, self.right = nn.Conv2d(12, 7, 1), nn.Conv2d(12, 7, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        x = x * torch.sigmoid(self.more(F.relu(self.less(F.adaptive_avg_pool2d(x, 1)))))
        x = x + self.depthwise(x) * self.scale
        y = F.gelu(self.linear(self.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return F.hardswish(self.left(y)) * self.right(y)


class Joined(nn.Module):
    """Concatenations that grow, that nest, that repeat a value, that hold the input; pooled and convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.growth = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(5 + 3 * i), nn.ReLU(), nn.Conv2d(5 + 3 * i, 3, 3, padding=1)) for i in range(3)
        )
        self.squeeze, self.wide = nn.Conv2d(14, 4, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.last = nn.Conv2d(33, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.relu6(self.first(x))]
        for layer in self.growth:
            parts.append(layer(torch.cat(parts, 1)))
        small = self.squeeze(torch.cat(parts, 1))
        nested = torch.cat([small, torch.cat([F.max_pool2d(small, 3, 1, 1), torch.sigmoid(self.wide(small))], 1)], 1)
        y = torch.cat([nested, x, parts[1], small, parts[1], parts[2] + parts[3], x], 1)
        return torch.cat([self.last(y), F.max_pool2d(y, 3, 1, 1)], 1)


class Pooled(nn.Module):
    """Windows that do not divide the map, more of them than pixels, and averages that count some of their padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, (3, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps = [
            F.adaptive_avg_pool2d(x, (4, 3)),
            F.adaptive_max_pool2d(x, (4, 3)),
            F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(x, (2, 3)), (4, 3)),
            F.adaptive_avg_pool2d(F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (4, 3)),
            F.adaptive_avg_pool2d(F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), (4, 3)),
            F.adaptive_avg_pool2d(F.avg_pool2d(x, 2, 2, 1, ceil_mode=True, count_include_pad=False), (4, 3)),
        ]
        return self.last(sum(maps[1:], maps[0])).flatten(1)


MODULES = (Excited, Joined, Pooled)
ON = list(zip(EVERY, itertools.cycle((1, 3, 16, 32)), strict=False))


@pytest.mark.parametrize(("isa", "batch_size"), ON, ids=title)
@pytest.mark.parametrize("kind", MODULES)
def test_operators_agree_with_torch(compiler: Compiler, kind: type[nn.Module], isa: Isa, batch_size: int) -> None:
    torch.manual_seed(0)
    module = prune_randomly(kind(), 0.5)
    error = compiler.deviation(module, (3, 13, 11), batch_size, isa=isa.name, dtype=isa.dtype)
    assert digits(isa) / 500 < error < digits(isa)


@pytest.mark.parametrize(("kind", "batch_size"), [(Excited, 5), (Joined, 1), (Pooled, 16)])
def test_pictures_of_one_pixel_or_row(compiler: Compiler, kind: type[nn.Module], batch_size: int) -> None:
    torch.manual_seed(0)
    shape = (3, 1, 7) if kind is Pooled else (3, 1, 1)
    assert compiler.deviation(prune_randomly(kind(), 0.5), shape, batch_size) < 1e-5


@pytest.mark.parametrize("batch_size", [1, 16])
def test_any_number_of_threads_gives_the_same_bits(compiler: Compiler, batch_size: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(prune_randomly(Excited(), 0.4), nn.Conv2d(7, 3, 1), prune_randomly(Joined(), 0.4))
    artifact = compiler.artifact(module, (3, 24, 20), batch_size)
    inputs = np.random.default_rng(3).standard_normal((batch_size, 3, 24, 20)).astype(np.float32)
    assert_same_bits(artifact, inputs, 10)


def test_a_large_offset_costs_layer_norm_no_digits(compiler: Compiler) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 64, 1)
    with torch.no_grad():
        conv.bias.copy_(1000 + 0.1 * torch.randn(64))

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv, nn.LayerNorm(64)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    module = Normalised().eval()
    inputs = np.random.default_rng(0).standard_normal((1, 1, 9, 9)).astype(np.float32)
    with torch.no_grad():
        plain, exact = (
            module(torch.from_numpy(inputs)).numpy(),
            module.double()(torch.from_numpy(inputs).double()).numpy(),
        )
        result = compiler.engine(module.float(), (1, 9, 9)).run({"input": inputs})["output"]
    assert np.abs(result - exact).max() < 3 * np.abs(plain - exact).max() + 1e-5


def plan_of(module: nn.Module, shape: tuple[int, int, int]) -> Plan:
    graph = simplify(read_graph(capture_module(module, shape, 1)))
    geometries = {size[1:]: candidates(size, 8, 1)[0] for size in graph.shapes.values()}
    return make_plan(graph, geometries, 1)


def test_growing_concatenations_are_never_copied() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(4))

        def forward(self, x: Tensor) -> Tensor:
            parts = [F.relu(x)]
            for layer in self.layers:
                parts.append(layer(torch.cat(parts, 1)))
            return torch.cat(parts, 1)

    plan = plan_of(Dense(), (3, 16, 16))
    nodes = [step.node for step in plan.steps if isinstance(step, Compute)]
    assert [type(node) for node in nodes] == [Elementwise, Conv, Conv, Conv, Conv]
    whole = {plan.owner(node.output) for node in nodes}
    assert whole == {plan.graph.output}
    # each map lies behind the one before, in one tensor with one halo
    starts = [plan.offsets[node.output] for node in nodes]
    stride = plan.tensors[plan.graph.output].channel_stride
    assert [start - starts[0] for start in starts] == [0, 3 * stride, 7 * stride, 11 * stride, 15 * stride]
    assert {plan.tensors[node.output].halo for node in nodes} == {(1, 1, 1, 1)}


def test_what_two_concatenations_want_is_copied_for_one() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b = F.relu(x), torch.sigmoid(x)
            return torch.cat([a, b], 1) + torch.cat([b, a], 1)

    plan = plan_of(Twice(), (3, 8, 8))
    copies = [step for step in plan.steps if isinstance(step, Compute) and ".part" in step.node.output]
    assert len(copies) == 2
    assert all(isinstance(step.node, Elementwise) and step.node.right is None for step in copies)
