"""The benchmark's weights: how many are kept where, against the figures that they were defined by."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from runtime.errors import UserError
from st3.layers import prunable_layers
from train.densities import LayerSize, Weights, densities, parse_weights


@pytest.fixture(scope="module")
def network() -> tuple[dict[str, LayerSize], dict[str, int]]:
    """The sizes of ResNet-50's layers, and how many positions of the output each of their weights serves."""
    with torch.device("meta"):
        model = resnet50(weights=None).eval()
        sizes, positions = {}, {}
        for name, layer in prunable_layers(model).items():
            sizes[name] = LayerSize(layer.weight.numel(), layer.weight[0].numel())

            def note(module: nn.Module, inputs: object, output: torch.Tensor, name: str = name) -> None:
                positions[name] = math.prod(output.shape[2:])

            layer.module.register_forward_hook(note)
        model(torch.zeros(1, 3, 224, 224))
    return sizes, positions


Network = tuple[dict[str, LayerSize], dict[str, int]]


def millions(name: str, network: Network) -> float:
    sizes, positions = network
    kept = densities(parse_weights(name), sizes)
    return sum(kept[layer] * sizes[layer].weights * positions[layer] for layer in sizes) / 1e6


@pytest.mark.parametrize(
    ("name", "expected"),
    [("st3_50", 2416), ("st3_70", 1671), ("st3_80", 1252), ("st3_90", 764.0), ("st3_95", 465), ("st3_98", 241)],
)
def test_macs_of_resnet50(name: str, expected: float, network: Network) -> None:
    assert millions(name, network) == pytest.approx(expected, abs=0.05 if expected == 764.0 else 0.5)


def test_dense_and_uniform_macs_of_resnet50(network: Network) -> None:
    assert millions("dense", network) == pytest.approx(4089.2, abs=0.1)
    assert millions("u_90", network) == pytest.approx(408.9, abs=0.1)


def test_layers_of_resnet50_at_90_per_cent(network: Network) -> None:
    kept = densities(parse_weights("st3_90"), network[0])
    for layer, expected in (
        ("conv1", 0.40),
        ("layer1.1.conv1", 0.32),
        ("layer1.1.conv2", 0.20),
        ("layer1.1.conv3", 0.52),
        ("layer2.1.conv2", 0.105),
        ("layer3.1.conv2", 0.042),
        ("layer4.1.conv1", 0.051),
        ("layer4.1.conv2", 0.011),
        ("layer4.1.conv3", 0.21),
    ):
        assert kept[layer] == pytest.approx(expected, abs=0.01), layer


@pytest.mark.parametrize("name", ["st3_1", "st3_90", "st3_99", "u_80"])
def test_the_whole_has_the_sparsity_asked_for(name: str, network: Network) -> None:
    weights, sizes = parse_weights(name), network[0]
    kept = densities(weights, sizes)
    share = sum(kept[layer] * sizes[layer].weights for layer in sizes) / sum(s.weights for s in sizes.values())
    assert share == pytest.approx(1 - weights.sparsity, abs=1e-6)


def test_names_are_read() -> None:
    assert parse_weights("dense") == Weights("dense", 0.0)
    assert parse_weights("u_5") == Weights("u", 0.05)
    assert parse_weights("st3_95") == Weights("st3", 0.95)


@pytest.mark.parametrize("name", ["", "st3", "st3_0", "st3_100", "st3_090", "st3_9.5", "x_90", "st3_90 ", "Dense"])
def test_a_wrong_name_is_refused_with_the_right_forms(name: str) -> None:
    with pytest.raises(UserError, match=r"there are no weights .* for instance st3_90"):
        parse_weights(name)
