"""Networks as torch's two exporters write them: their graphs answer like torch itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from graph_interpreter import run_graph
from onnx_models import export
from support import prune_randomly
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from compile.from_onnx import read_graph
from compile.graph import Conv, Elementwise
from compile.onnx_file import read_onnx


def convnext() -> nn.Module:
    module = ConvNeXt([CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)], num_classes=10)
    for name, parameter in module.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.uniform_(parameter, 0.2, 0.8)  # a new network's are 1e-6, which would hide its blocks
    return module


def densenet() -> nn.Module:
    return torchvision.models.DenseNet(4, (2, 3), 8, num_classes=10)


def named(name: str) -> nn.Module:
    module: nn.Module = getattr(torchvision.models, name)(num_classes=10)
    return module


@pytest.mark.parametrize(
    ("name", "opset", "dynamo"),
    [
        ("resnet18", 13, False),
        ("resnet18", 18, True),
        ("mobilenet_v2", 17, False),
        ("mobilenet_v3_small", 13, False),
        ("mobilenet_v3_small", 20, True),
        ("efficientnet_b0", 16, False),
        ("squeezenet1_1", 20, False),
        ("regnet_y_400mf", 17, False),
        ("convnext", 13, False),
        ("convnext", 17, False),
        ("convnext", 18, True),
        ("convnext", 22, True),
        ("densenet", 18, True),
        ("densenet", 17, False),
    ],
)
def test_networks_of_torchvision(tmp_path: Path, name: str, opset: int, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = prune_randomly({"convnext": convnext, "densenet": densenet}.get(name, lambda: named(name))(), 0.4)
    try:
        export(module, (3, 64, 64), tmp_path / "m.onnx", opset, dynamo)
    except (RuntimeError, ValueError, TypeError) as error:
        if dynamo:
            raise
        pytest.skip(f"torch {torch.__version__} has no old exporter any more: {error}")
    graph = read_graph(read_onnx(tmp_path / "m.onnx"), 3)
    inputs = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = module(inputs).numpy()
    result = run_graph(graph, inputs.numpy()).reshape(expected.shape)
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()
    ops = Counter(node.op for node in graph.nodes if isinstance(node, Conv))
    assert ops["conv2d"] == sum(isinstance(m, nn.Conv2d) for m in module.modules())
    assert ops["linear"] == sum(isinstance(m, nn.Linear) for m in module.modules())
    # scale and shift of their own are left only where a network normalises before its convolutions
    assert (ops["affine"] > 0) == (name == "densenet")
    assert ops["pad"] == 0
    if (name, dynamo) == ("resnet18", True):  # the exporter keeps the modules' names
        names = [node.layer for node in graph.nodes if isinstance(node, Conv)]
        assert [*names[:3], names[-1]] == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "fc"]


def test_batch_size_that_a_file_was_exported_for_need_not_be_the_target_s(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=8), nn.Linear(256, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(nn.functional.silu(self.conv(x)).reshape(x.shape[0], 256))

    module = Reshaped()
    export(module, (3, 64, 64), tmp_path / "m.onnx", 18, dynamo=True, batch_size=1)
    file = read_onnx(tmp_path / "m.onnx")
    assert file.batch == 1
    inputs = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = module(inputs).numpy()
    graph = read_graph(file, 4)
    assert np.abs(run_graph(graph, inputs.numpy())[:, :, 0, 0] - expected).max() < 1e-5
    assert [node.activation for node in graph.nodes if isinstance(node, Elementwise)] == ["silu"]
