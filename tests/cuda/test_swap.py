"""Networks that the graph has no words for: their layers alone are swapped, in torch's exported program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes import KeptColumns
from support import export_module, prune_randomly
from torch import nn
from torchvision.models import VisionTransformer

from compile.cuda.body import GraphBody, ProgramBody, open_body
from compile.cuda.candidates import offer
from compile.cuda.choice import place
from compile.cuda.errors import emulated, errors, exact
from compile.from_checkpoint import TorchNetwork


def transformer() -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)
    nn.init.normal_(model.heads.head.weight)  # zeros at first, which would hide all before
    return prune_randomly(model, 0.4).eval()


def network_of(module: nn.Module, batch: int) -> TorchNetwork:
    return TorchNetwork(export_module(module, (3, 32, 32)), (3, 32, 32), batch)


def test_a_transformer_with_swapped_layers_agrees_with_torch(kept_columns: KeptColumns) -> None:
    module = transformer()
    body = open_body(network_of(module, 2), "float16")
    assert isinstance(body, ProgramBody)
    found = body.sites(2, "float32")
    assert [site.layer for site in found.values()][:4] == [
        "conv_proj",
        "encoder.layers.encoder_layer_0.self_attention.in_proj",
        "encoder.layers.encoder_layer_0.self_attention.out_proj",
        "encoder.layers.encoder_layer_0.mlp.0",
    ]
    assert len(found) == 10
    assert found["linear_2"].problem.batch == 2 * 17
    offers = {name: offer(site, most=1) for name, site in found.items()}
    layers = {
        name: place(site, offers[name].candidates.get("kept_columns", offers[name].candidates["dense"])[0])
        for name, site in found.items()
    }
    assert all("kept_columns" in offered.candidates for offered in offers.values())
    network = body.build(layers, "float32", ((2, 10),))
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, result = module(inputs), network(inputs)
    assert float((result - expected).abs().max() / expected.abs().max()) < 1e-5
    # nothing is kept twice: a swapped layer's weight is its format's alone
    assert not any("mlp" in name for name in dict(network.body.named_parameters()))


def test_layers_with_a_relu_take_it_over() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    body = ProgramBody(network_of(module.eval(), 3).program().module(check_guards=False))
    found = list(body.sites(3, "float32").values())
    assert [site.problem.activation for site in found] == ["relu", "relu", "identity"]
    layers = exact(body.sites(3, "float32"))
    network = body.build(layers, "float32", ((3, 2),))
    inputs = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network(inputs), module(inputs), atol=1e-6)
    assert not any("relu" in node.name for node in network.body.graph.nodes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_errors_are_those_of_rounding(dtype: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        module[2].weight[0, 0, 0, 0] = 1e-9 if dtype == "float16" else 0.0
    network = network_of(module.eval(), 2)
    body = open_body(network, "float16")
    assert isinstance(body, GraphBody)
    sites = body.sites(2, dtype)
    assert [site.underflows for site in sites.values()] == [0, 1 if dtype == "float16" else 0]
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        golden = module(inputs)
    layers, exact_layers = emulated(sites), exact(sites)
    found = errors(
        body.build(layers, dtype, ((2, 8),)),
        layers,
        body.build(exact_layers, "float32", ((2, 8),)),
        exact_layers,
        inputs,
        [golden],
    )
    bits = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert list(found.layers) == list(sites)
    assert all(0.2 * bits < error < 3 * bits for error in found.layers.values())
    assert 0 < found.deviations[0] < 8 * bits
    # and a wrong layer is seen where it is
    name = list(sites)[1]
    spoilt = dict(layers)
    spoilt[name] = nn.Sequential()
    spoilt[name].forward = lambda x, *_: 1.1 * layers[name](x)  # type: ignore[method-assign]
    worse = errors(
        body.build(spoilt, dtype, ((2, 8),)),
        spoilt,
        body.build(exact_layers, "float32", ((2, 8),)),
        exact_layers,
        inputs,
        [golden],
    )
    assert worse.layers[name] == pytest.approx(0.1, abs=0.01)
    assert worse.layers[next(iter(sites))] == found.layers[next(iter(sites))]


def test_no_network_at_all(tmp_path: Path) -> None:
    """An ONNX file with an operator that the graph lacks has no program to fall back to."""
    from compile.network import Network
    from runtime.errors import UserError

    class Neither(Network):
        def graph(self) -> None:
            raise UserError("node 'x' uses the operator y")

        def program(self) -> None:
            raise UserError("no program")

        layers = answer = write_onnx = None  # type: ignore[assignment]

    with pytest.raises(UserError, match="operator y"):
        open_body(Neither((1, 3, 8, 8), "input", "output"), "float16")
