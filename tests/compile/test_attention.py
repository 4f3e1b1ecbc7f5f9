"""Small networks of tokens, windows and heads in generated code, against torch, and what of them the graph has."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graph_interpreter import run_graph
from networks import EVERY, digits, title
from support import Compiler, assert_same_bits, capture_module, prune_randomly
from torch import Tensor, nn

from compile.from_torch import read_graph
from compile.graph import Attention, Graph, LayerNorm, Move
from compile.native.isa import Isa
from compile.passes.simplify import simplify


class Tokens(nn.Module):
    """ViT: patches, a class token, positions, torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 10, 12))
        self.norm, self.last = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return torch.tanh(self.head(self.last(x + self.mlp(x))[:, 0]))


class Windows(nn.Module):
    """Swin: maps padded, rolled and cut into windows, relative positions, a mask, patch merging; ``cosine`` is V2."""

    def __init__(self, cosine: bool) -> None:
        super().__init__()
        self.cosine = cosine
        self.stem, self.norm = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8)
        self.qkv, self.merge, self.reduce = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(32, 6, bias=False)
        self.relative = nn.Parameter(torch.randn(25, 2))
        place = torch.arange(9)
        row, column = place // 3, place % 3
        index = (row[:, None] - row + 2) * 5 + column[:, None] - column + 2
        self.register_buffer("index", index.reshape(-1))
        self.scale = nn.Parameter(torch.rand(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        size, height, width, channels = x.shape
        y = F.pad(self.norm(x), (0, 0, 0, -width % 3, 0, -height % 3))
        down, across = y.shape[1] // 3, y.shape[2] // 3
        y = torch.roll(y, (-1, -1), (1, 2)).view(size, down, 3, across, 3, channels).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(-1, 9, channels)
        query, key, value = self.qkv(y).reshape(-1, 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
        if self.cosine:
            scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
            scores = scores * torch.clamp(self.scale, max=0.9).exp()
        else:
            scores = (query * 0.5) @ key.transpose(-2, -1)
        scores = scores + self.relative[self.index].view(9, 9, 2).permute(2, 0, 1).unsqueeze(0)
        mask = y.new_zeros((3 * down, 3 * across))
        mask[-1:, :] = 1
        mask[:, -1:] += 2
        mask = mask.view(down, 3, across, 3).permute(0, 2, 1, 3).reshape(-1, 9)
        mask = mask.unsqueeze(1) - mask.unsqueeze(2)
        mask = mask.masked_fill(mask != 0, -100.0)
        scores = scores.view(-1, down * across, 2, 9, 9) + mask.unsqueeze(1).unsqueeze(0)
        y = F.dropout(scores.view(-1, 2, 9, 9).softmax(-1), 0.1, training=False) @ value
        y = self.merge(y.transpose(1, 2).reshape(-1, 9, channels))
        y = y.view(size, down, across, 3, 3, channels).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(size, 3 * down, 3 * across, channels)
        x = x + torch.roll(y, (1, 1), (1, 2))[:, :height, :width].contiguous()
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduce(torch.cat(parts, -1)).mean((1, 2))


class Grid(nn.Module):
    """MaxViT: attention by einsum among a window's pixels, then among those that a grid takes, then a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.window, self.grid = nn.Linear(6, 18), nn.Linear(6, 18)
        self.bias = nn.Parameter(torch.randn(2, 4, 4))
        self.last = nn.Conv2d(6, 4, 3, padding=1)

    def attend(self, x: Tensor, layer: nn.Module) -> Tensor:
        query, key, value = (
            part.reshape(*part.shape[:3], 2, 3).permute(0, 1, 3, 2, 4) for part in layer(x).chunk(3, -1)
        )
        scores = torch.einsum("B G H I D, B G H J D -> B G H I J", query, key / math.sqrt(3)) + self.bias
        return torch.einsum("BGHIJ,BGHJD->BGHID", scores.softmax(-1), value).permute(0, 1, 3, 2, 4).flatten(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        size, down, across = x.shape[0], x.shape[2] // 2, x.shape[3] // 2
        y = x.reshape(size, 6, down, 2, across, 2).permute(0, 2, 4, 3, 5, 1).reshape(size, -1, 4, 6)
        y = y + self.attend(y, self.window)
        y = y.reshape(size, down, across, 2, 2, 6).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
        y = y.reshape(size, 6, 2, down, 2, across).permute(0, 2, 4, 3, 5, 1).reshape(size, 4, -1, 6).swapaxes(-2, -3)
        y = (y + self.attend(y, self.grid)).swapaxes(-2, -3)
        y = y.reshape(size, 2, 2, down, across, 6).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
        return self.last(y + x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "tokens": (Tokens, (3, 12, 12)),
    "windows": (lambda: Windows(cosine=False), (3, 16, 20)),
    "cosine windows": (lambda: Windows(cosine=True), (3, 16, 20)),
    "grid": (Grid, (3, 8, 12)),
}
ON = list(zip(EVERY, itertools.cycle((1, 3, 16)), strict=False))


def graph_of(name: str, batch_size: int) -> Graph:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module = make().eval()
    inputs = torch.randn(batch_size, *shape)
    graph = simplify(read_graph(capture_module(module, shape, batch_size)))
    with torch.no_grad():
        expected = module(inputs)
    result = torch.from_numpy(run_graph(graph, inputs.numpy())).reshape(expected.shape)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    return graph


@pytest.mark.parametrize(("isa", "batch_size"), ON, ids=title)
@pytest.mark.parametrize("name", NETWORKS)
def test_generated_code_agrees_with_torch(compiler: Compiler, name: str, isa: Isa, batch_size: int) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module = prune_randomly(make(), 0.5)
    assert compiler.deviation(module, shape, batch_size, isa=isa.name, dtype=isa.dtype) < digits(isa)


@pytest.mark.parametrize("name", ["cosine windows", "grid"])
def test_the_graph_of_several_pictures_is_that_of_one(name: str) -> None:
    kinds = Counter(type(node) for node in graph_of(name, 2).nodes)
    assert kinds[Attention] == (2 if name == "grid" else 1)


def test_a_class_token_and_positions_are_one_move() -> None:
    graph = graph_of("tokens", 2)
    moves = [node for node in graph.nodes if isinstance(node, Move)]
    # the second one takes the class token out again
    assert [node.positions.tolist() for node in moves] == [[-1, *range(9)], [0]]
    assert graph.shapes[moves[0].output] == (12, 1, 10)


def test_a_padded_rolled_map_is_cut_into_windows_by_one_move() -> None:
    graph = graph_of("windows", 1)
    (attention,) = (node for node in graph.nodes if isinstance(node, Attention))
    assert graph.shapes[attention.output] == (8, 12, 9)
    assert attention.bias is not None
    assert attention.bias.shape == (12, 2, 9, 9)
    assert attention.scale.tolist() == [0.5, 0.5]
    norm = next(node for node in graph.nodes if isinstance(node, LayerNorm))
    (cut,) = (node for node in graph.nodes if isinstance(node, Move) and node.input == norm.output)
    assert np.count_nonzero(cut.positions < 0) == 9 * 12 - 8 * 10


@pytest.mark.parametrize("name", ["tokens", "cosine windows"])
def test_any_number_of_threads_gives_the_same_bits(compiler: Compiler, name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    artifact = compiler.artifact(prune_randomly(make(), 0.5), shape, 2)
    inputs = np.random.default_rng(3).standard_normal((2, *shape)).astype(np.float32)
    assert_same_bits(artifact, inputs, 3)


@pytest.mark.parametrize("mask", ["none", "boolean", "causal", "terms"])
def test_torchs_own_attention_with_each_kind_of_mask(mask: str) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kept = torch.rand(6, 6) < 0.5
            kept.fill_diagonal_(True)
            self.register_buffer("mask", kept if mask == "boolean" else torch.randn(2, 6, 6))

        def forward(self, x: Tensor) -> Tensor:
            heads = x.flatten(2).unflatten(1, (2, 4)).transpose(2, 3)
            given = self.mask if mask in ("boolean", "terms") else None
            y = F.scaled_dot_product_attention(heads, heads, heads, given, is_causal=mask == "causal", scale=0.3)
            return y.transpose(2, 3).flatten(1, 2)

    torch.manual_seed(0)
    module, inputs = Masked(), torch.randn(2, 8, 2, 3)
    graph = read_graph(capture_module(module, (8, 2, 3), 2))
    result = torch.from_numpy(run_graph(graph, inputs.numpy())).reshape(2, 8, 6)
    torch.testing.assert_close(result, module(inputs), rtol=1e-4, atol=1e-5)
