"""Every kernel of the table computes the convolution, with every kind of tile and chunk, alone and in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import EVERY, digits, title
from support import capture_module, prune_randomly
from torch import nn

from compile.from_torch import read_graph
from compile.native.builder import Builder
from compile.native.channel_layout import channel_plan
from compile.native.emit import emit
from compile.native.isa import Isa, isa_for
from compile.native.kernel_table import KERNELS
from compile.native.plan import Plan
from compile.native.schedule import Schedule, options, without_joins
from compile.native.select import pixel_plan
from compile.native.trial import aligned, open_library, pointers
from compile.passes.simplify import simplify

L1, L2 = 48 * 1024, 2**20
SHAPE = (5, 13, 11)


class Ragged(nn.Module):
    """Strides, a residual, and channels that divide by nothing but the blocks of 4."""

    def __init__(self, density: float, block: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        convs = [nn.Conv2d(5, 36, 3, padding=1), nn.Conv2d(36, 36, 1), nn.Conv2d(36, 28, 3, stride=2, padding=1)]
        self.first, self.second, self.third = (prune_randomly(conv, density, block=block) for conv in convs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return torch.nn.functional.silu(self.third(torch.relu(x + self.second(x))))


def plan_for(kernel: str, module: nn.Module, batch_size: int, isa: Isa) -> Plan:
    graph = simplify(read_graph(capture_module(module, SHAPE, batch_size)))
    if KERNELS[kernel].channel_lanes:
        return channel_plan(graph, batch_size, isa)
    return without_joins(pixel_plan(graph, batch_size, batch_size, isa, L2))


def versions(plan: Plan, kernel: str, isa: Isa) -> list[dict[str, Schedule]]:
    """Its first, middle and last schedule of each layer."""
    found = {name: [s for s in ranked if s.format == kernel] for name, ranked in options(plan, isa, L1).items()}
    assert all(found.values()), f"{kernel} takes none of the weights"
    return [{name: ranked[(len(ranked) - 1) * part // 2] for name, ranked in found.items()} for part in range(3)]


def run(plan: Plan, version: dict[str, Schedule], isa: Isa, stem: Path, inputs: np.ndarray, threads: int) -> np.ndarray:
    source = emit(plan, version, isa)
    with Builder(isa) as builder:
        library = open_library(builder.library(source, stem))
    weights = aligned(source.weights())
    handle = library.st3_open(weights.ctypes.data, weights.size, threads, None, 0)
    result = np.empty((len(inputs), *plan.graph.shapes[plan.graph.output]), np.float32)
    assert library.st3_run(handle, inputs.ctypes.data, pointers([result])) == 0
    library.st3_close(handle)
    return result


@pytest.mark.parametrize("isa", EVERY, ids=title)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_agrees_with_torch(kernel: str, isa: Isa, tmp_path: Path) -> None:
    module = Ragged(0.3, 4).eval()
    batch_size = 2 if KERNELS[kernel].channel_lanes else isa.lanes // 4
    inputs = np.random.default_rng(0).standard_normal((batch_size, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(inputs)).numpy()
    plan = plan_for(kernel, module, batch_size, isa)
    for index, version in enumerate(versions(plan, kernel, isa)):
        result = run(plan, version, isa, tmp_path / str(index), inputs, threads=1 + index)
        assert np.abs(result - expected).max() < digits(isa) * np.abs(expected).max(), version


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name.endswith("_stream")])
def test_a_zero_weight_is_not_multiplied(kernel: str, tmp_path: Path) -> None:
    """An infinity or NaN reaches those outputs alone whose kept weights read it."""
    isa = isa_for("native")
    module = Ragged(0.3, 4 if kernel == "block_stream" else 1).first.eval()
    inputs = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    inputs[0, 1, 4, 5], inputs[0, 3, 9, 0] = np.inf, np.nan
    touched = np.zeros((1, 36, 13, 11), bool)
    kept = module.weight.detach().numpy() != 0
    for channel, y, x in ((1, 4, 5), (3, 9, 0)):
        for row in range(3):
            for column in range(3):
                at = (y + 1 - row, x + 1 - column)
                if 0 <= at[0] < 13 and 0 <= at[1] < 11:
                    touched[0, :, at[0], at[1]] |= kept[:, channel, row, column]
    plan = plan_for(kernel, module, 1, isa)
    result = run(plan, versions(plan, kernel, isa)[0], isa, tmp_path / "library", inputs, threads=1)
    assert np.array_equal(~np.isfinite(result), touched)
