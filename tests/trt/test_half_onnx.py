"""The fp16 model answers like the network, and holds fp16 alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import NETWORKS
from onnx import TensorProto, numpy_helper
from onnx_models import Builder
from several_outputs import Pyramid
from support import export_module, prune_randomly
from torch import nn
from torchvision.models import VisionTransformer

from compile.backends.tensorrt import write_model
from compile.from_checkpoint import TorchNetwork
from compile.half import as_half, underflows
from compile.network import Network, Normalisation
from compile.onnx_network import open_onnx
from compile.tensorrt.half_program import half_onnx, half_program
from compile.tensorrt.rehearsal import rehearse
from runtime.errors import UserError

# of a network of some dozen layers, whose worst was 0.0013 when this was written
CLOSE = 4e-3


def network_of(module: nn.Module, shape: tuple[int, int, int], batch_size: int = 2) -> TorchNetwork:
    return TorchNetwork(export_module(module, shape), shape, batch_size)


def deviation(network: Network) -> tuple[float, onnx.ModelProto]:
    model, _ = write_model(network)
    onnx.checker.check_model(model, full_check=True)
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert types <= {TensorProto.FLOAT16, TensorProto.INT64}
    (error,) = rehearse(model, network)
    return error, model


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet", "squeezenet1_0"])
def test_families_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    network = network_of(prune_randomly(make(), 0.5), (3, size, size))
    error, model = deviation(network)
    assert error < CLOSE
    names = {node.name for node in model.graph.node}
    assert {layer.name for layer in network.layers()} <= names
    assert len(names) == len(model.graph.node)


class Gated(nn.Module):
    """A factor per position, a sum and an activation behind one convolution."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.one(x))
        return self.act(self.two(x) + x) * gate + self.act(self.three(x))


MODULES: list[tuple[nn.Module, tuple[int, int, int]]] = [
    (nn.AvgPool2d(3, 2, 1), (4, 9, 7)),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (4, 9, 7)),
    (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (4, 10, 8)),
    (nn.AvgPool2d(2, 3, ceil_mode=True), (4, 9, 7)),
    (nn.MaxPool2d(3, 2, ceil_mode=True), (4, 10, 8)),
    (nn.MaxPool2d(3, 1, 1, dilation=2), (4, 9, 7)),
    (nn.AdaptiveAvgPool2d((3, 5)), (4, 7, 9)),
    (nn.AdaptiveMaxPool2d((4, 2)), (4, 7, 9)),
    (nn.AdaptiveAvgPool2d((3, 2)), (4, 9, 8)),
    (nn.AdaptiveAvgPool2d(5), (4, 2, 3)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (4, 9, 7)),
    (nn.Sequential(nn.Flatten(), nn.Linear(4 * 9 * 7, 5)), (4, 9, 7)),
    *((Gated(act()), (4, 9, 7)) for act in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.GELU)),
    (Gated(nn.GELU(approximate="tanh")), (4, 9, 7)),
]


@pytest.mark.parametrize(("module", "shape"), MODULES, ids=lambda value: type(value).__name__)
def test_operators(module: nn.Module, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    # between two convolutions, since a network without a layer is none
    whole = nn.Sequential(nn.Conv2d(3, shape[0], 1), module)
    error, _ = deviation(network_of(whole, (3, *shape[1:])))
    assert error < 2e-3


def test_layer_norm_over_channels() -> None:
    torch.manual_seed(0)
    make, size = NETWORKS["convnext"]
    error, model = deviation(network_of(prune_randomly(make(), 0.5), (3, size, size)))
    assert error < CLOSE
    assert "LayerNormalization" in {node.op_type for node in model.graph.node}


def test_a_file_whose_input_bears_the_graphs_own_name(tmp_path: Path) -> None:
    build = Builder()
    onnx.save(build.model(build.node("Relu", build.conv("x", 3, 8))), tmp_path / "net.onnx")
    network, _ = open_onnx(tmp_path / "net.onnx", 2, Normalisation())
    error, model = deviation(network)
    assert error < 2e-3
    assert [value.name for value in model.graph.input] == ["x"]


@pytest.mark.parametrize("through", ["graph", "torch"])
def test_several_outputs_keep_names_and_order(through: str) -> None:
    torch.manual_seed(0)
    network = network_of(Pyramid(), (2, 12, 10))
    if through == "graph":
        model, _ = write_model(network)
    else:
        model = half_onnx(
            half_program(network.program(), network.input_shape)[0], network.input_name, network.output_names
        )
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == list(network.output_names)
    errors = rehearse(model, network)
    assert len(errors) == len(network.output_names)
    assert all(0 < error < CLOSE for error in errors)


def test_what_the_graph_lacks_goes_through_torchs_exporter() -> None:
    torch.manual_seed(0)
    module = VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)
    nn.init.normal_(module.heads.head.weight)
    network = network_of(module, (3, 32, 32))
    (before,) = network.answer(np.ones((2, 3, 32, 32), np.float32))
    error, model = deviation(network)
    assert error < CLOSE
    assert {layer.name for layer in network.layers()} <= {node.name for node in model.graph.node}
    # the network itself stays as it was
    np.testing.assert_array_equal(network.answer(np.ones((2, 3, 32, 32), np.float32))[0], before)


def test_batch_normalisation_keeps_two_of_four_and_zeros_are_positive() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        module[0].weight[:, ::2] = 0
        module[1].weight.fill_(-2.0)  # makes zeros negative
    model, _ = write_model(network_of(module, (4, 8, 8)))
    (weight,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("weight"))
    assert not np.signbit(weight[:, ::2]).any()
    assert (weight[:, ::2] == 0).all()
    assert (weight[:, 1::2] != 0).all()


def test_what_fp16_cannot_hold_is_refused_or_counted() -> None:
    assert underflows(np.array([1e-9, 6e-8, 0.0, 1.0], np.float32)) == 1
    with pytest.raises(
        UserError, match=r"^a folded weight or bias of 70000 does not fit fp16, whose largest .* 65504;"
    ):
        as_half(np.array([7e4], np.float32))
    with pytest.raises(UserError, match="does not fit fp16"):
        as_half(np.array([np.nan], np.float32))


def test_a_network_that_leaves_the_range_of_fp16_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False))
    with torch.no_grad():
        module[0].weight.fill_(6e4)
        module[1].weight.fill_(1e-3)
    network = network_of(module, (1, 8, 8))
    with pytest.raises(
        UserError, match=r"^the network leaves the range of fp16 .*so TensorRT cannot run it in float16"
    ):
        rehearse(write_model(network)[0], network)


def test_torchs_program_with_a_weight_beyond_fp16_is_refused() -> None:
    module = VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)
    nn.init.constant_(module.heads.head.weight, 1e5)
    with pytest.raises(
        UserError, match=r"heads\.head\.weight holds 100000, which does not fit fp16 \(largest 65504\);"
    ):
        write_model(network_of(module, (3, 32, 32)))
