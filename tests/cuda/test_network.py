"""The graph as a torch module: every family of networks in float32 on the CPU, against torch itself."""

from __future__ import annotations

import pytest
import torch
from families import NETWORKS
from support import capture_module, prune_randomly
from torch import nn

from compile.cuda.choice import Candidate, place
from compile.cuda.format import find_format
from compile.cuda.network import GpuNetwork
from compile.cuda.sites import sites
from compile.from_torch import read_graph
from compile.passes.simplify import simplify


def dense_network(module: nn.Module, shape: tuple[int, int, int], batch: int, kind: int) -> GpuNetwork:
    """Every layer dense, in the configuration ``kind`` where the layer has it."""
    graph = simplify(read_graph(capture_module(module, shape, batch)))
    layers = {}
    for name, site in sites(graph, batch, "float32").items():
        configs = {config.kind: config for config in find_format("dense").configs(site.problem)}
        layers[name] = place(site, Candidate("dense", configs.get(kind, configs[0]), site.problem))
    with torch.no_grad():
        expected = module(torch.zeros(batch, *shape))
    return GpuNetwork(graph, layers, "float32", (tuple(expected.shape),))


def deviation(network: nn.Module, module: nn.Module, inputs: torch.Tensor) -> float:
    with torch.no_grad():
        expected, result = module(inputs), network(inputs)
    assert result.shape == expected.shape
    assert result.dtype == torch.float32
    return float((result - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_family_agrees_with_torch(name: str) -> None:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    module = prune_randomly(make(), 0.3).eval()
    network = dense_network(module, (3, size, size), 2, kind=0)
    assert deviation(network, module, torch.randn(2, 3, size, size)) < 1e-5


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_every_kind_of_dense_kernel_computes_the_same(kind: int) -> None:
    torch.manual_seed(0)
    make, size = NETWORKS["wide_resnet"]
    module = prune_randomly(make(), 0.3).eval()
    network = dense_network(module, (3, size, size), 2, kind)
    used = {layer.inner.kind for layer in network.nodes if hasattr(layer, "inner")}
    assert kind in used
    assert deviation(network, module, torch.randn(2, 3, size, size)) < 1e-5
