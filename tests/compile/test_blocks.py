"""Blocks of output channels in the native backend: against torch, and where they are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import RUNNABLE, Residual
from support import Compiler, capture_module, export_module, prune_randomly
from torch import nn

from compile.backend import AS_MODELLED, find_backend
from compile.backends.native import choose_schedules
from compile.from_checkpoint import TorchNetwork
from compile.from_torch import read_graph
from compile.native.builder import Builder
from compile.native.isa import ISAS
from compile.native.select import pixel_plan
from runtime.abi import STEPS_FILE, batch_folder
from runtime.artifact import Target
from runtime.engine import load
from runtime.steps import read_steps


def ragged_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 30, 3, padding=1),
        nn.ReLU(),
        Residual(30, 30, 1),
        Residual(30, 61, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(61, 23),
    )


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_blocks_of_output_channels_agree_with_torch(compiler: Compiler, isa: str, batch_size: int) -> None:
    module = prune_randomly(ragged_network(), 0.3, block=4)
    artifact = compiler.artifact(module, (3, 29, 23), batch_size, isa=isa)
    steps = read_steps(artifact.payload / batch_folder(batch_size) / STEPS_FILE)
    assert {step.kernel for step in steps if step.layer} == {"block_stream"}
    expected = np.load(artifact.folder / "golden/outputs.npy")
    result = load(artifact.folder).run({"input": np.load(artifact.folder / "golden/inputs.npy")})["output"]
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_layer_table_says_which_layers_run_in_blocks_and_why(tmp_path: Path) -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 10, 3), nn.Conv2d(10, 8, 1), nn.Conv2d(8, 16, 1, groups=2), nn.Conv2d(16, 3, 1)]
    module = prune_randomly(nn.Sequential(*convs), 0.3, block=4)
    with torch.no_grad():
        module[1].weight[0, 0] = 1 - (module[1].weight[0, 0] != 0).float()  # one block that is not full
    plugin = find_backend("native")
    target = Target("cpu", plugin.architecture("native"), "float32", 1, 1, (1,))
    formats = plugin.build(
        TorchNetwork(export_module(module, (3, 12, 12)), (3, 12, 12), 1), target, tmp_path, AS_MODELLED
    ).formats
    density = [int(torch.count_nonzero(conv.weight)) / conv.weight.numel() for conv in convs]
    # three channels are no block, and so few that a stream saves next to nothing
    assert formats.pop("3") in [(name, f"density {density[3]:.3f}") for name in ("offset_stream", "dense")]
    assert formats == {
        "0": ("block_stream", f"density {density[0]:.3f}, in full blocks of 4 output channels"),
        "1": ("offset_stream", f"density {density[1]:.3f}"),
        "2": ("offset_stream", f"density {density[2]:.3f}"),
    }


def test_what_a_block_does_not_hold_never_meets_an_infinity(compiler: Compiler) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(8, 6, 1)
    with torch.no_grad():
        module.weight[:4, [0, 3, 7]] = 0
        module.weight[4:, [1, 5, 6]] = 0
    inputs = np.random.default_rng(0).standard_normal((1, 8, 5, 5)).astype(np.float32)
    inputs[0, 3, 1, 1], inputs[0, 5, 2, 2] = np.inf, np.nan
    artifact = compiler.artifact(module, (8, 5, 5))
    assert read_steps(artifact.payload / batch_folder(1) / STEPS_FILE)[1].kernel == "block_stream"
    result = load(artifact.folder).run({"input": inputs})["output"]
    assert np.isfinite(result[0, :4, 1, 1]).all()
    assert not np.isfinite(result[0, 4:, 1, 1]).any()
    assert np.isnan(result[0, :4, 2, 2]).all()
    assert np.isfinite(result[0, 4:, 2, 2]).all()


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.7])
def test_the_cost_model_prefers_blocks_where_the_weights_come_in_blocks(isa: str, density: float) -> None:
    torch.manual_seed(0)
    shapes = [(64, 256, 1), (256, 64, 1), (64, 64, 3), (32, 30, 1)]
    convs = [nn.Conv2d(inputs, outputs, kernel) for inputs, outputs, kernel in shapes]
    for conv in convs:
        graph = read_graph(capture_module(prune_randomly(conv, density, block=4), (conv.in_channels, 28, 28), 1))
        # among the kernels of the sparse layout; whether a network this dense takes that layout is another choice
        plan = pixel_plan(graph, 1, 1, ISAS[isa], 2**20)
        with Builder(ISAS[isa]) as builder:
            _, schedules = choose_schedules(plan, builder, 1, AS_MODELLED)
        assert [schedule.format for schedule in schedules.values()] == ["block_stream"]
