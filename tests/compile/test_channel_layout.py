"""Networks of dense weights, with channels in the vector lanes, against torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import RUNNABLE, windows
from support import Compiler, assert_same_bits, capture_module, prune_randomly
from torch import nn

import compile.native.select
from compile.from_torch import read_graph
from compile.native.channel_layout import reject
from compile.native.isa import ISAS
from compile.passes.fuse_epilogue import fuse_epilogue
from runtime.abi import STEPS_FILE, batch_folder
from runtime.artifact import Artifact
from runtime.check import replay
from runtime.engine import load
from runtime.steps import StepInfo


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels in the lanes wherever they can be, though a small network may be faster without."""
    monkeypatch.setattr(compile.native.select, "_CHANNEL_FMA", 1e-9)


class Block(nn.Module):
    """A residual block whose shortcut changes size and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


def ragged_network(channels: int = 3) -> nn.Module:
    """Numbers of channels that fill no vectors."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 20, 5, 2, 2),
        nn.ReLU6(),
        nn.MaxPool2d(3, 2, 1),
        Block(20, 37),
        nn.SiLU(),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        Block(37, 50),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(50, 19),
    )


def kernels(artifact: Artifact, batch_size: int) -> set[str]:
    steps = (artifact.payload / batch_folder(batch_size) / STEPS_FILE).read_bytes()
    return {step.kernel for step in msgspec.json.decode(steps, type=list[StepInfo]) if step.layer}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_ragged_channels_agree_with_torch(compiler: Compiler, isa: str, batch_size: int) -> None:
    assert compiler.deviation(ragged_network(), (3, 53, 47), batch_size, isa=isa) < 1e-5


def test_a_dense_resnet_has_channels_in_the_lanes_and_a_sparse_one_has_not(compiler: Compiler) -> None:
    torch.manual_seed(0)
    module = prune_randomly(torchvision.models.resnet18(num_classes=10), 1.0)
    artifact = compiler.artifact(module, (3, 96, 80))
    assert replay(load(artifact.folder)).error < 1e-5
    assert kernels(artifact, 1) == {"dense_channels"}
    prune_randomly(module, 0.2)
    assert "dense_channels" not in kernels(compiler.artifact(module, (3, 96, 80)), 1)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int], int]:
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    window, size = windows(draw)
    torch.manual_seed(draw(st.integers(0, 1000)))
    act = draw(st.sampled_from([nn.Identity(), nn.ReLU(), nn.ReLU6()]))
    first = draw(st.sampled_from([nn.Identity(), nn.Conv2d(inputs, inputs, 1)]))
    conv = nn.Conv2d(inputs, outputs, *window, bias=draw(st.booleans()))
    return nn.Sequential(first, conv, act), (inputs, *size), draw(st.sampled_from([1, 2]))


@pytest.mark.usefixtures("always")
@settings(max_examples=20)
@given(convolutions())
def test_any_convolution_agrees_with_torch(case: tuple[nn.Module, tuple[int, int, int], int]) -> None:
    module, shape, batch_size = case
    with tempfile.TemporaryDirectory() as folder:
        assert Compiler(Path(folder)).deviation(module, shape, batch_size) < 1e-5


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("batch_size", [1, 5])
def test_any_number_of_threads_gives_the_same_bits(compiler: Compiler, batch_size: int) -> None:
    artifact = compiler.artifact(ragged_network(), (3, 64, 64), batch_size)
    assert kernels(artifact, batch_size) == {"dense_channels"}
    inputs = np.random.default_rng(3).standard_normal((batch_size, 3, 64, 64)).astype(np.float32)
    assert_same_bits(artifact, inputs, 10)


@pytest.mark.usefixtures("always")
def test_the_input_and_the_result_may_be_maps_of_many_channels(compiler: Compiler) -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(32, 32, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv(x) + x)

    torch.manual_seed(0)
    assert compiler.deviation(Added(), (32, 9, 11), 2) < 1e-5


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "a grouped convolution"),
        (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(33, 4, 1)), "its 33 channels do not fill vectors of 16"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), None),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(module: nn.Module, reason: str | None) -> None:
    first = next(child for child in module.modules() if isinstance(child, nn.Conv2d))
    graph = fuse_epilogue(read_graph(capture_module(module, (first.in_channels, 12, 12), 1)))
    found = reject(graph, ISAS["avx512"])
    assert found is reason is None or (reason is not None and found is not None and reason in found)
