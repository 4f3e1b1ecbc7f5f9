"""The format column_union: exact round trips, its kernel under Triton's interpreter, and run where there is a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unstructured_cases import Case, check, check_replay, make_case, on_gpu, ragged

from compile.cuda.formats import column_union
from compile.cuda.formats.column_union import ColumnUnionConfig
from compile.cuda.problem import ConvProblem

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, torch finds none")
THREE = {"kernel": (3, 3), "padding": (1, 1)}
REAL = {
    "56x56": ConvProblem(8, 64, 56, 56, 64, **THREE, activation="relu"),
    "28x28, stride 2": ConvProblem(8, 128, 56, 56, 128, **THREE, stride=(2, 2), residual=True),
    "7x7": ConvProblem(32, 512, 7, 7, 512, **THREE, activation="relu"),
    "1x1": ConvProblem(32, 2048, 7, 7, 512, activation="relu"),
    "stem": ConvProblem(4, 3, 224, 224, 64, kernel=(7, 7), stride=(2, 2), padding=(3, 3)),
}


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 20), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    dead=st.integers(0, 40),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_a_weight_comes_back_bit_for_bit(shape, density, dead, dtype, seed):
    weight = random_weight(shape, density, seed).to(dtype)
    weight[:dead] = 0
    buffers = column_union.pack(weight)
    assert sorted(buffers["order"].tolist()) == list(range(shape[0]))
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(column_union.unpack(buffers, shape).view(bits), weight.view(bits))


@given(
    outputs=st.integers(1, 70),
    grain=st.sampled_from([1, 2, 4]),
    group=st.sampled_from([16, 32]),
    density=st.sampled_from([0.0, 0.05, 0.6]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_the_steps_hold_every_weight_once(outputs, grain, group, density, seed):
    problem = ConvProblem(1, 12, 9, 9, outputs, (3, 3), padding=(1, 1), dtype="float32")
    weight = random_weight(problem.weight_shape, density, seed)
    config = ColumnUnionConfig(16, group, 4, grain, 1, 1)
    found = column_union.arrange(column_union.pack(weight), problem, config)
    again = torch.zeros_like(weight)
    for at in range(len(found.starts) - 1):
        channels = found.order[at * group : (at + 1) * group]
        for step in range(found.starts[at], found.starts[at + 1]):
            r, s = found.taps[step] + 1
            columns = np.repeat(found.channels[step], grain) * grain + np.tile(np.arange(grain), 4 // grain)
            for k, column in enumerate(columns):
                for n, channel in enumerate(channels):
                    if channel >= 0:
                        again[channel, column, r, s] += found.weights[step, k, n]
    assert torch.equal(again, weight)


def test_clustering_finds_the_channels_that_share_support():
    supports = torch.rand(4, 64, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.1
    weight = supports[torch.arange(64) % 4].float()
    order = column_union.cluster(weight)
    assert [len(set(order[i : i + 16] % 4)) for i in range(0, 64, 16)] == [1, 1, 1, 1]
    assert column_union.kept_columns(weight, 16) == pytest.approx(float(supports.sum()) / 4)


def test_dead_channels_cost_nothing():
    problem = ConvProblem(1, 16, 8, 8, 64, (3, 3), padding=(1, 1))
    weight = random_weight(problem.weight_shape, 0.2, 0)
    weight[::2] = 0
    weight[:, 4:] = 0
    found = column_union.arrange(column_union.pack(weight), problem, ColumnUnionConfig(16, 16, 16, 1, 1, 1))
    assert found.starts[2] == found.starts[4], "32 of 64 output channels are dead: two of four groups take no step"
    assert found.starts[2] <= 2 * 9, "four live input channels fit one step of each tap"


def test_kept_columns_of_coarser_grains():
    weight = torch.zeros(16, 8, 1, 1)
    weight[3, 5] = 1
    assert [column_union.kept_columns(weight, 16, grain) for grain in (1, 2, 4, 8)] == [1, 2, 4, 8]


def test_the_kernel_is_right_under_the_interpreter():
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parent.parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, folder / "triton_cases.py"],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-300:] + ran.stderr[-3000:]
    assert len(ran.stdout.splitlines()) == 2 * len(ragged("float16")) + 2


def test_refusals_say_why():
    problem = ConvProblem(1, 64, 8, 8, 64, **THREE)
    weight = random_weight(problem.weight_shape, 0.01, 0)
    thin = random_weight(problem.weight_shape, 0.0001, 0)
    assert column_union.reject(thin, problem) is None
    assert column_union.reject(torch.ones_like(weight), problem) == (
        "groups of 16 output channels keep 1.0000 of the columns; past 0.005 dense was faster"
    )
    assert "keep 0.1" in column_union.reject(weight, problem)
    grouped = msgspec.structs.replace(problem, groups=2)
    assert (
        column_union.reject(thin[:, :32], grouped) == "2 groups: the output channels of a product read the same input"
    )
    curved = msgspec.structs.replace(problem, activation="gelu")
    assert column_union.reject(thin, curved) == "activation gelu is not fused, identity and relu are"


@NEEDS_GPU
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", [*ragged("float16"), *REAL])
def test_the_kernel_is_right_on_a_gpu(name: str, dtype: str):
    problem = msgspec.structs.replace({**ragged("float16"), **REAL}[name], dtype=dtype)
    case = on_gpu(make_case(problem, 0.05))
    grains: dict[int, ColumnUnionConfig] = {}
    for config in column_union.configs(problem):
        grains.setdefault(config.grain, config)
    for config in list(grains.values())[:2]:
        check(result(case, config), case)


@NEEDS_GPU
@pytest.mark.gpu
def test_a_cuda_graph_replays_it_on_new_inputs():
    case = on_gpu(make_case(REAL["7x7"], 0.02))
    config = column_union.configs(case.problem)[0]
    module = column_union.module(column_union.pack(case.weight), case.bias, case.problem, config).cuda()
    check_replay(module, case)


def result(case: Case, config: ColumnUnionConfig) -> torch.Tensor:
    module = column_union.module(column_union.pack(case.weight), case.bias, case.problem, config).cuda()
    y: torch.Tensor = module(case.x, case.residual)
    return y


def random_weight(shape: tuple[int, ...], density: float, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random) * (torch.rand(shape, generator=random) < density)
