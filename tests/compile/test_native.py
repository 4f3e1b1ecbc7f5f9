"""The native backend against torch: layers of every shape, whole networks, threads, batch sizes, instruction sets."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from networks import RUNNABLE, convolutions, small_network
from support import Compiler, assert_same_bits, capture_module, prune_randomly
from torch import nn

from compile.from_torch import read_graph
from runtime.abi import LIBRARY_FILE, batch_folder
from runtime.engine import load
from runtime.engines.native import NativeEngine
from runtime.errors import ArtifactError, UserError


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_small_network_agrees_with_torch(compiler: Compiler, isa: str, batch_size: int) -> None:
    module = prune_randomly(small_network(), 0.3)
    assert compiler.deviation(module, (3, 29, 23), batch_size, isa=isa) < 1e-5


@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_sparsity_from_nothing_left_to_dense(compiler: Compiler, density: float) -> None:
    module = prune_randomly(small_network(1), density)
    assert compiler.deviation(module, (1, 28, 28), 2) < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_resnets_agree_with_torch(compiler: Compiler, name: str) -> None:
    torch.manual_seed(0)
    module = prune_randomly(getattr(torchvision.models, name)(num_classes=10), 0.1)
    assert compiler.deviation(module, (3, 96, 80)) < 1e-5


@settings(max_examples=30)
@given(convolutions())
def test_any_convolution_agrees_with_torch(case: tuple[nn.Module, tuple[int, int, int], int, float, int]) -> None:
    module, shape, batch_size, density, block = case
    prune_randomly(module, density, block=block)
    with tempfile.TemporaryDirectory() as folder:
        assert Compiler(Path(folder)).deviation(module, shape, batch_size) < 1e-5


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, 1, dilation=2),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d((3, 3)),
        nn.AdaptiveAvgPool2d((12, 9)),
    ],
    ids=str,
)
def test_pooling_agrees_with_torch(compiler: Compiler, pool: nn.Module) -> None:
    torch.manual_seed(0)

    # one map read by a max pool and by a convolution: two different values outside the picture
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.next, self.pool = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1), pool

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.pool(y).mean((2, 3)) + self.pool(self.next(y)).mean((2, 3))

    assert compiler.deviation(Both(), (2, 12, 9), 3) < 1e-5


def test_a_map_can_be_the_result_and_a_value_can_be_added_to_itself(compiler: Compiler) -> None:
    torch.manual_seed(0)

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.conv(x))
            return torch.relu(y + y)

    assert compiler.deviation(Doubled(), (3, 9, 11), 2) < 1e-5


def test_linear_after_flattened_map(compiler: Compiler) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 5 * 4, 9), nn.ReLU(), nn.Linear(9, 3)
    )
    assert compiler.deviation(prune_randomly(module, 0.5), (3, 7, 6), 4) < 1e-5


def test_batch_norm_before_any_convolution_is_kept(compiler: Compiler) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1))
    assert compiler.deviation(prune_randomly(module, 1.0), (3, 8, 8), 2) < 1e-5


def test_not_a_number_goes_through_as_in_torch(compiler: Compiler) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    engine = compiler.engine(module, (1, 12, 12))
    inputs = np.random.default_rng(0).standard_normal((1, 1, 12, 12)).astype(np.float32)
    inputs[0, 0, 5, 7], inputs[0, 0, 0, 0] = np.nan, np.inf
    with torch.no_grad():
        expected = module(torch.from_numpy(inputs)).numpy()
    assert np.isnan(expected).any()
    np.testing.assert_allclose(engine.run({"input": inputs})["output"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_any_number_of_threads_gives_the_same_bits(compiler: Compiler, batch_size: int) -> None:
    module = prune_randomly(small_network(), 0.2)
    artifact = compiler.artifact(module, (3, 32, 32), batch_size)
    inputs = np.random.default_rng(3).standard_normal((batch_size, 3, 32, 32)).astype(np.float32)
    assert_same_bits(artifact, inputs, 20)


def test_one_engine_in_two_threads_answers_right_or_refuses(compiler: Compiler) -> None:
    module = prune_randomly(small_network(), 0.2)
    engine = compiler.engine(module, (3, 64, 64))
    inputs = np.random.default_rng(3).standard_normal((1, 3, 64, 64)).astype(np.float32)
    expected = engine.run({"input": inputs})["output"]

    def call(_: int) -> bool:
        try:
            return np.array_equal(engine.run({"input": inputs})["output"], expected)
        except UserError as error:
            return "another thread" in str(error)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(200)))


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_profile_times_every_step_and_adds_up_to_the_run(compiler: Compiler, batch_size: int) -> None:
    module = prune_randomly(small_network(), 0.2)
    artifact = compiler.artifact(module, (3, 64, 64), batch_size, threads=2)
    engine = load(artifact.folder)
    assert isinstance(engine, NativeEngine)
    inputs = {"input": np.ones((batch_size, 3, 64, 64), np.float32)}
    engine.run(inputs)
    start = time.perf_counter()
    times = engine.profile(inputs)
    whole_ms = (time.perf_counter() - start) * 1e3
    assert {entry.step.layer for entry in times if entry.step.macs} == {
        name for name, child in module.named_modules() if isinstance(child, (nn.Conv2d, nn.Linear))
    }
    first = times[[entry.step.layer for entry in times].index("0")].step
    assert first.macs == batch_size * 64 * 64 * int(torch.count_nonzero(module[0].weight))
    assert 0 < sum(entry.ms for entry in times) <= whole_ms


def test_two_loaded_artifacts_share_nothing(compiler: Compiler) -> None:
    one = compiler.artifact(prune_randomly(small_network(), 0.2), (3, 32, 32))
    other = compiler.artifact(prune_randomly(small_network(), 0.9, seed=1), (3, 24, 24))
    first, second = load(one.folder), load(other.folder)
    a, b = np.ones((1, 3, 32, 32), np.float32), np.ones((1, 3, 24, 24), np.float32)
    before = first.run({"input": a})["output"], second.run({"input": b})["output"]
    with ThreadPoolExecutor(2) as pool:
        left = pool.submit(lambda: [first.run({"input": a})["output"] for _ in range(100)])
        right = pool.submit(lambda: [second.run({"input": b})["output"] for _ in range(100)])
        assert all(np.array_equal(result, before[0]) for result in left.result())
        assert all(np.array_equal(result, before[1]) for result in right.result())


def test_a_missing_operator_is_named(compiler: Compiler) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus())
    with pytest.raises(UserError, match=r"softplus.*aten\.softplus.*conv2d"):
        read_graph(capture_module(module, (3, 8, 8), 1))


def test_without_a_compiler_the_error_says_what_to_install(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no-such-compiler.*apt install g\+\+"):
        compiler.artifact(nn.Conv2d(1, 1, 1), (1, 4, 4))


def test_a_compiler_that_is_not_gcc_is_told_from_what_is_needed(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other++"
    other.write_text("#!/bin/sh\necho \"other: error: unknown argument: '-fno-gnu-unique'\" >&2\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    with pytest.raises(UserError, match=r"other\+\+ could not compile .*unknown argument.*must be g\+\+ 11 or newer"):
        compiler.artifact(nn.Conv2d(1, 1, 1), (1, 4, 4))


def test_the_library_needs_nothing_but_libc(compiler: Compiler) -> None:
    artifact = compiler.artifact(prune_randomly(small_network(), 0.2), (3, 32, 32))
    library = (artifact.payload / batch_folder(1) / LIBRARY_FILE).read_bytes()
    assert b"libc.so" in library
    assert b"libstdc++" not in library
    assert b"libgcc_s" not in library


def test_too_many_threads_are_refused_not_crashed(compiler: Compiler) -> None:
    artifact = compiler.artifact(prune_randomly(small_network(), 0.2), (3, 32, 32))
    with pytest.raises(ArtifactError, match="not enough memory or threads"):
        load(artifact.folder, threads=2_000_000_000)
