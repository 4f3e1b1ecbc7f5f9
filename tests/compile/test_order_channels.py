"""Other orders of channels: the network computes the same, and unstructured weights become 2:4."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import NETWORKS
from graph_interpreter import run_outputs
from support import capture_module, export_module, prune_randomly
from torch import nn

from compile.backends.tensorrt import write_model
from compile.cuda.body import ProgramBody, open_body
from compile.cuda.errors import exact
from compile.from_checkpoint import TorchNetwork
from compile.from_torch import read_graph
from compile.graph import Conv, Graph
from compile.passes.channel_orders import ChannelOrders
from compile.passes.order_channels import order_channels
from compile.passes.simplify import simplify
from compile.tensorrt.rehearsal import rehearse
from compile.tensorrt.two_of_four import check_weights
from st3.patterns import obeys, parse_pattern

TWO_OF_FOUR = parse_pattern("2:4")


def two_of_four(weight: np.ndarray) -> bool:
    return weight.shape[1] % 4 == 0 and obeys(torch.from_numpy(weight != 0), TWO_OF_FOUR)


def convolutions(graph: Graph) -> dict[str, Conv]:
    return {node.layer: node for node in graph.nodes if isinstance(node, Conv) and node.groups == 1}


def fitting(graph: Graph) -> set[str]:
    return {name for name, node in convolutions(graph).items() if two_of_four(node.weight)}


class Every(nn.Module):
    """Every way in which channels are tied, handed on, or fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.before = nn.Conv2d(16, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.gate = nn.Conv2d(16, 16, 1)
        self.side = nn.Conv2d(16, 8, 1)
        self.after = nn.Conv2d(40, 16, 1)
        self.normed = nn.Conv2d(16, 16, 1)
        self.norm = nn.LayerNorm(16)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.more = nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(16 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.deep(x)) * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        z = torch.cat([x, self.side(y), self.grouped(self.before(x))], 1)
        w = nn.functional.max_pool2d(self.after(z) + y, 2)
        w = self.normed(self.norm(w.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)) + w
        return self.head(torch.flatten(w, 1)), self.more(w)


def graph_of(module: nn.Module, shape: tuple[int, int, int]) -> Graph:
    return simplify(read_graph(capture_module(module, shape, 2)))


def shuffled(graph: Graph) -> tuple[Graph, int]:
    """Every segment that may move in a random order."""
    channels, random = ChannelOrders(graph), np.random.default_rng(3)
    free = channels.free()
    return channels.reorder({part.key: random.permutation(part.size) for part in free}), len(free)


def assert_alike(graph: Graph, other: Graph, shape: tuple[int, int, int]) -> None:
    inputs = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    for expected, result in zip(run_outputs(graph, inputs), run_outputs(other, inputs), strict=True):
        assert float(np.abs(expected).max()) > 0
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5 * float(np.abs(expected).max()))


def test_any_order_gives_the_same_answers() -> None:
    torch.manual_seed(0)
    graph = graph_of(Every(), (3, 8, 8))
    made, count = shuffled(graph)
    assert count == 2
    old, new = convolutions(graph), convolutions(made)
    assert all((old[name].weight != new[name].weight).any() for name in old)
    # groups of channels keep theirs
    np.testing.assert_array_equal(old["before"].bias, new["before"].bias)
    assert_alike(graph, made, (3, 8, 8))


def test_what_is_returned_keeps_its_order() -> None:
    torch.manual_seed(0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.first(x)
            return y, self.second(y)

    graph = graph_of(prune_randomly(Both().eval(), 0.2), (3, 4, 4))
    assert ChannelOrders(graph).free() == ()
    assert order_channels(graph).graph is graph


@pytest.mark.parametrize("name", ["resnext", "mobilenet_v3_small", "densenet", "convnext", "regnet_y", "segmenter"])
def test_any_order_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    graph = graph_of(make().eval(), (3, side, side))
    made, count = shuffled(graph)
    assert count > 3
    assert_alike(graph, made, (3, side, side))


class Bottlenecks(nn.Module):
    """Two blocks that add to one stream, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(64, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 1)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


def bottlenecks(density: float) -> Bottlenecks:
    torch.manual_seed(0)
    module = Bottlenecks()
    prune_randomly(module, density)
    return module.eval()


def test_unstructured_weights_become_two_of_four() -> None:
    graph = graph_of(bottlenecks(0.1), (3, 6, 6))
    found = order_channels(graph)
    before, after = fitting(graph), fitting(found.graph)
    assert len(before) < 3
    assert found.layers == after - before
    assert after == set(convolutions(graph)) - {"stem"}
    assert_alike(graph, found.graph, (3, 6, 6))
    # zeros moved, none was added
    for name, node in convolutions(graph).items():
        np.testing.assert_array_equal(np.sort(node.weight, None), np.sort(convolutions(found.graph)[name].weight, None))


def test_what_is_two_of_four_stays_so() -> None:
    """The stream is read by a layer that was trained 2:4 and by one that has to be mended."""
    module = bottlenecks(0.1)
    first = module.blocks[0][0].weight
    with torch.no_grad():
        first.copy_(torch.randn_like(first))
        first[:, 0::4] = 0
        first[:, 3::4] = 0
    graph = graph_of(module, (3, 6, 6))
    assert "blocks.0.0" in fitting(graph)
    found = order_channels(graph)
    assert "blocks.0.0" in fitting(found.graph)
    assert "blocks.0.2" in found.layers
    assert_alike(graph, found.graph, (3, 6, 6))


def test_a_reader_that_cannot_be_mended_does_not_stop_the_others() -> None:
    module = bottlenecks(0.1)
    first = module.blocks[0][0].weight
    with torch.no_grad():
        first.copy_(torch.randn_like(first))
    graph = graph_of(module, (3, 6, 6))
    found = order_channels(graph)
    assert "blocks.0.0" not in fitting(found.graph)
    assert {"blocks.1.0", "head"} <= fitting(found.graph)


def test_dense_weights_are_left_alone() -> None:
    torch.manual_seed(0)
    graph = graph_of(Bottlenecks().eval(), (3, 6, 6))
    found = order_channels(graph)
    assert found.graph is graph
    assert not found.layers


def test_concatenations_are_ordered_part_by_part() -> None:
    torch.manual_seed(0)

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)
            self.after = nn.Conv2d(64, 64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.stem(x))
            y: torch.Tensor = self.after(torch.cat([self.left(x), self.right(x)], 1))
            return y

    graph = graph_of(prune_randomly(Joined().eval(), 0.1), (3, 5, 5))
    found = order_channels(graph)
    assert "after" in found.layers
    assert fitting(found.graph) >= {"left", "right", "after"}
    assert_alike(graph, found.graph, (3, 5, 5))


def test_halves_are_offered_the_sparse_kernels_and_float32_is_left_alone() -> None:
    network = TorchNetwork(export_module(bottlenecks(0.1), (3, 6, 6)), (3, 6, 6), 2)
    half, single = open_body(network, "float16"), open_body(network, "float32")
    assert {"blocks.0.0", "blocks.0.2", "blocks.0.4"} <= half.ordered
    assert not single.ordered
    from compile.cuda.candidates import offer

    kept = {site.layer for site in half.sites(2, "float16").values() if "semi_structured" in offer(site, 1).candidates}
    assert kept >= half.ordered


def test_tensorrt_is_given_the_ordered_weights() -> None:
    network = TorchNetwork(export_module(bottlenecks(0.1), (3, 6, 6)), (3, 6, 6), 2)
    model, ordered = write_model(network)
    assert {"blocks.0.0", "blocks.0.2", "blocks.0.4"} <= ordered
    fits = {check.node: check.fits for check in check_weights(model)}
    assert all(fits[name] for name in ordered)
    (error,) = rehearse(model, network)
    assert error < 4e-3


class Hidden(nn.Module):
    """Attention, for which the compiler's graph for GPUs has no words, and layers of hidden features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(48, 32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(), nn.Linear(64, 32))
        self.bare = nn.Sequential(nn.Linear(32, 64, bias=False), nn.ReLU(), nn.Linear(64, 32))
        self.split = nn.Linear(32, 64)
        self.twice = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.flatten(2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.mlp(x)
        x = x + self.bare(x)
        hidden = self.split(x)
        y: torch.Tensor = self.head((x + self.twice(hidden) + hidden[..., :32]).mean(1))
        return y


def test_hidden_features_of_a_program_are_ordered() -> None:
    torch.manual_seed(0)
    module = prune_randomly(Hidden().eval(), 0.2)
    shape = (3, 6, 8)
    module.stem = nn.Linear(48, 32)
    network = TorchNetwork(export_module(module.eval(), shape), shape, 2)
    body = open_body(network, "float16")
    assert isinstance(body, ProgramBody)
    assert body.ordered == {"mlp.3", "bare.2"}
    sites = body.sites(2, "float32")
    assert {"mlp.3", "bare.2"} <= {site.layer for site in sites.values() if two_of_four(site.weight.numpy())}
    inputs = torch.randn(2, *shape)
    made = body.build(exact(sites), "float32", ((2, 10),))
    with torch.no_grad():
        torch.testing.assert_close(made(inputs), module(inputs), rtol=1e-5, atol=1e-5)
    # the network itself goes on answering with its own weights
    (answer,) = network.answer(inputs.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(answer, module(inputs).numpy(), rtol=1e-5, atol=1e-5)
    assert not open_body(network, "float32").ordered
    model, ordered = write_model(network)
    assert ordered == body.ordered
    assert ordered <= {check.node for check in check_weights(model) if check.fits}
