"""What only a GPU can show: kernels against torch, the tuner, the artifact, and its engine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from several_outputs import Pyramid
from support import checkpoint_info, prune_randomly, write_checkpoint
from torch import nn

import st3
from compile.backend import Effort
from compile.cuda import proof, whole
from compile.cuda.candidates import offer
from compile.cuda.choice import place
from compile.cuda.choose import by_measurement
from compile.cuda.problem import ConvProblem
from compile.cuda.sites import Site
from compile.cuda.tune import Budget, measure_all
from compile.lower import lower
from runtime.artifact import open_artifact
from runtime.check import replay
from runtime.cuda import gpu
from runtime.cuda.replay import Replay, replay_us
from runtime.engine import load
from runtime.errors import ArtifactError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

PROBLEMS = [
    ConvProblem(4, 32, 14, 14, 64, (3, 3), (1, 1), (1, 1), activation="relu", residual=True),
    ConvProblem(3, 24, 15, 13, 40, (3, 3), (2, 2), (1, 1), activation="relu"),
    ConvProblem(5, 16, 9, 9, 24, (1, 1), activation="relu"),
    ConvProblem(5, 16, 9, 9, 24, (1, 1), residual=True),
    ConvProblem(2, 16, 9, 9, 24, (1, 1), (2, 2)),
    ConvProblem(37, 48, 1, 1, 56),
    ConvProblem(2, 3, 32, 32, 16, (7, 7), (2, 2), (3, 3), activation="relu"),
    ConvProblem(2, 32, 8, 8, 32, (3, 3), (1, 1), (1, 1), groups=32, activation="silu"),
]
LIMIT = {"float16": 2e-3, "bfloat16": 1e-2, "float32": 1e-5}


def site_of(problem: ConvProblem, density: float = 0.3) -> Site:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(problem.weight_shape, generator=generator) / problem.reduction**0.5
    weight *= torch.rand(problem.weight_shape, generator=generator) < density
    return Site("y", "layer", weight, torch.randn(problem.outputs, generator=generator), problem)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("number", range(len(PROBLEMS)))
def test_every_candidate_of_every_format_agrees_with_float64(number: int, dtype: str) -> None:
    gpu.prepare("float32")
    problem = msgspec.structs.replace(PROBLEMS[number], dtype=dtype)
    site = site_of(problem)
    random = torch.Generator().manual_seed(1)
    x = torch.randn(problem.input_shape, generator=random).to(problem.torch_dtype)
    residual = torch.randn(problem.output_shape, generator=random).to(problem.torch_dtype) if problem.residual else None
    y = torch.conv2d(
        x.double(),
        site.rounded.double(),
        site.bias.double(),
        problem.stride,
        problem.padding,
        problem.dilation,
        problem.groups,
    )
    y = y if residual is None else y + residual.double()
    expected = {"relu": torch.relu, "silu": nn.functional.silu, "identity": lambda v: v}[problem.activation](y)
    last = {"memory_format": torch.channels_last}
    given = [None if value is None else value.to("cuda").contiguous(**last) for value in (x, residual)]
    for candidates in offer(site, most=3).candidates.values():
        for candidate in candidates:
            with torch.inference_mode():
                result = place(site, candidate).to("cuda")(*given)
            assert result.dtype == problem.torch_dtype
            assert result.shape == problem.output_shape
            error = float((result.cpu().double() - expected).norm() / expected.norm())
            assert error < LIMIT[dtype], f"{candidate.describe()} is {error:.1e} off"


def test_the_tuner_keeps_dense_unless_it_is_beaten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compile.cuda.stopwatch import GpuStopwatch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu.prepare("float16")
    site = site_of(PROBLEMS[0])
    budget = Budget(most=2)
    offered = offer(site, budget.most)
    timings = measure_all({"y": site}, {"y": offered}, GpuStopwatch(budget), lambda _: None)["y"]
    assert all(0.5 < timing.us < 1000 for timing in timings.values())
    choice = by_measurement(offered, timings)
    assert choice.chosen_us <= choice.dense_us


def test_a_graph_is_faster_than_its_calls_and_cold_is_slower_than_warm() -> None:
    layer = nn.Conv2d(256, 256, 3, padding=1).half().to("cuda", memory_format=torch.channels_last)
    x = torch.randn(1, 256, 14, 14, device="cuda")

    def network(value: torch.Tensor) -> torch.Tensor:
        for _ in range(10):
            value = layer(value.half()).float()
        return value

    replayed = Replay(network, x)
    warm, cold = (sorted(replay_us([replayed.replay] * 20, cold))[10] for cold in (False, True))
    with torch.inference_mode():
        eager = sorted(replay_us([lambda: network(x)] * 20))[10]
    assert warm < eager
    assert warm < cold
    replayed.replay()
    with torch.inference_mode():
        assert torch.allclose(replayed.outputs[0], network(replayed.input), atol=1e-2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    checkpoint = write_checkpoint(folder / "sparse", "st3", 0.5, "2:4")
    return lower(checkpoint, folder, "inductor", (16,), 1, "native", Effort(tune=True), device="cuda", dtype="float16")


def test_the_artifact_answers_like_its_checkpoint_and_says_what_ran(built: Path) -> None:
    engine = load(built)
    result = replay(engine)
    assert result.passed
    assert result.error < 0.02
    manifest = engine.artifact.manifest
    assert manifest.target.architecture == gpu.architecture()
    assert manifest.proof is not None
    assert manifest.proof.networks_us
    for layer in manifest.layers:
        assert layer.dense_us is not None
        assert layer.chosen_us is not None
        assert layer.chosen_us <= layer.dense_us
        assert 0 < layer.error < 0.02
        assert layer.kernels, layer.name
    inputs = {manifest.input.name: np.random.default_rng(3).standard_normal(manifest.input.shape).astype(np.float32)}
    once = engine.run(inputs)[manifest.output.name]
    assert np.array_equal(engine.run(inputs)[manifest.output.name], once)
    assert 0.001 < engine.device_ms(inputs) < 100
    assert engine.device_ms(inputs, cold=True) > 0


def test_several_outputs_on_the_gpu_and_on_two_streams(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape, model = (2, 12, 10), Pyramid()
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.5))
    pruner.bake()
    info = checkpoint_info("st3", pruner.plan, shape)
    checkpoint = st3.write_checkpoint(tmp_path / "checkpoint", model, info, pruner.patterns).folder
    engine = load(lower(checkpoint, tmp_path, "inductor", (3,), 1, "native", device="cuda", dtype="float32"))
    assert replay(engine).passed
    name = engine.artifact.manifest.input.name
    given = [torch.randn(3, *shape, device="cuda") for _ in range(2)]
    expected = [engine.run({name: each.cpu().numpy()}) for each in given]
    streams = [torch.cuda.Stream() for _ in given]
    torch.cuda.synchronize()
    for _ in range(20):
        answers = []
        for stream, each in zip(streams, given, strict=True):
            with torch.cuda.stream(stream):
                answers.append(engine.run_on_device({name: each}))
        torch.cuda.synchronize()
        for answer, wanted in zip(answers, expected, strict=True):
            assert list(answer) == list(wanted)
            assert len(answer) == len(model(torch.zeros(1, *shape)))
            for key, value in answer.items():
                np.testing.assert_array_equal(value.cpu().numpy(), wanted[key])


def test_another_gpu_is_refused(built: Path) -> None:
    artifact = open_artifact(built)
    manifest = msgspec.structs.replace(
        artifact.manifest, target=msgspec.structs.replace(artifact.manifest.target, architecture="sm_86")
    )
    from runtime.engines.inductor import check_gpu

    with pytest.raises(
        ArtifactError, match=rf"needs a GPU of architecture sm_86; this machine has {gpu.architecture()}"
    ):
        check_gpu(msgspec.structs.replace(artifact, manifest=manifest))


def test_kernels_are_named_by_the_profiler() -> None:
    layers = {"first": nn.Conv2d(16, 16, 3).cuda(), "second": nn.ReLU()}
    network = nn.Sequential(*layers.values())
    x = torch.randn(2, 16, 8, 8, device="cuda")
    found = proof.kernels_by_layer(network, layers, x)
    assert found["first"]
    assert len(found["second"]) == 1
    assert set(found["first"]) | set(found["second"]) <= proof.kernels_of(network, x)


def test_whole_networks_are_timed_in_turns() -> None:
    small, large = (nn.Conv2d(64, width, 3).half().cuda() for width in (64, 4096))
    x = torch.randn(16, 64, 28, 28, device="cuda")
    found = whole.measure({"small": lambda v: small(v.half()), "large": lambda v: large(v.half())}, x)
    assert found["small"].us < found["large"].us


def test_torch_compile_runs_sparse_layers() -> None:
    from compile.cuda import dynamo

    torch._dynamo.reset()
    model = (
        prune_randomly(nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)), 0.1).half().cuda().eval()
    )
    x = torch.randn(8, 32, 20, 20, device="cuda").half()
    with torch.no_grad():
        expected, result = model(x), torch.compile(model, backend=dynamo.st3)(x)
    assert float((result - expected).float().norm() / expected.float().norm()) < 5e-3
