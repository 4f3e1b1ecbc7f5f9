"""Half precision on a CPU: what an artifact says of it, the error of whole networks, what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from families import NETWORKS
from networks import HALF, NO_HALF, EveryOperator
from support import Compiler, answers, export_module, prune_randomly, write_checkpoint, write_golden
from torch import nn

from compile.backend import AS_MODELLED, find_backend
from compile.from_checkpoint import TorchNetwork
from compile.lower import MARGIN, backends_for, lower, up_to_date
from compile.native import isa as instruction_sets
from runtime.artifact import Target, golden_output, open_artifact
from runtime.engine import load
from runtime.errors import UserError
from st3.cli import main

needs_half = pytest.mark.skipif(not HALF, reason=NO_HALF)
REFUSAL = "this processor does not compute in float16, which needs AVX-512 FP16 (avx512_fp16) or ARM's (asimdhp)"


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("half") / "sparse", "st3", 0.9)


@needs_half
@pytest.mark.parametrize("name", ["shufflenet_v2", "mobilenet_v3_small", "densenet"])
def test_networks_of_torchvision_agree_with_torch(compiler: Compiler, name: str) -> None:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    assert 1e-4 < compiler.deviation(prune_randomly(make(), 0.3), (3, size, size), dtype="float16") < 3e-2


@needs_half
def test_every_operator_agrees_with_torch(compiler: Compiler) -> None:
    error = compiler.deviation(prune_randomly(EveryOperator(), 0.5), (3, 13, 11), 3, dtype="float16")
    assert 1e-4 < error < 2e-2


@needs_half
def test_an_artifact_says_its_numbers_its_error_and_what_it_needs(sparse: Path, tmp_path: Path) -> None:
    folder = lower(sparse, tmp_path, "native", (1, 16), 1, "native", dtype="float16")
    assert folder.name == "native-float16-b1-16"
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    assert manifest.target.dtype == "float16"
    assert manifest.target.architecture == find_backend("native").architecture("native")
    assert set(manifest.requirements.cpu_flags) & {"avx512_fp16", "asimdhp"}
    assert [layer.underflows for layer in manifest.layers] == [0] * len(manifest.layers)
    engine = load(folder)
    for size in (1, 16, 5):
        inputs = np.load(folder / "golden/inputs.npy")[:size]
        wanted = np.load(folder / golden_output(0))[:size]
        answer = engine.run({manifest.input.name: inputs})[manifest.output.name]
        error = np.abs(answer - wanted).max() / np.abs(wanted).max()
        assert 1e-5 < error < 2 * manifest.tolerance.relative / MARGIN
    engine.close()
    assert up_to_date(sparse, folder, 1, "native", dtype="float16")
    assert not up_to_date(sparse, folder, 1, "native")
    lower(sparse, tmp_path, "native", (1, 16), 1, "native")
    assert up_to_date(sparse, folder, 1, "native", dtype="float16")  # they lie side by side


@needs_half
def test_small_weights_that_become_zero_are_counted(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    with torch.no_grad():
        module[2].weight.fill_(0.5)[1:3] = 1e-9
    inputs = np.ones((1, 1, 8, 8), np.float32)
    write_golden(tmp_path, inputs, answers(module, inputs))
    network = TorchNetwork(export_module(module, (1, 8, 8)), (1, 8, 8), 1)
    target = Target("cpu", "native", "float16", 1, 1)
    built = find_backend("native").build(network, target, tmp_path, AS_MODELLED)
    assert [built.facts[name].underflows for name in built.formats] == [0, 8]


@needs_half
@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((1e5, 1.0), "a folded weight or bias of 100000 does not fit fp16, whose largest number is 65504"),
        ((600.0, 600.0), "the network's answers are not finite in float16: some activation is larger than it holds"),
    ],
)
def test_what_half_precision_cannot_hold_is_refused(
    compiler: Compiler, factors: tuple[float, float], message: str
) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False))
    with torch.no_grad():
        for layer, factor in zip((module[0], module[2]), factors, strict=True):
            layer.weight.fill_(factor)
    with pytest.raises(UserError, match=message):
        compiler.artifact(module, (1, 8, 8), dtype="float16")


def test_backends_that_compute_in_float32_alone_are_left_out(sparse: Path, tmp_path: Path) -> None:
    dense = write_checkpoint(tmp_path / "dense", "dense", 0.0)
    assert backends_for(dense, dtype="float16") == (["native"] if HALF else [])
    for backend in ("onnxruntime", "inductor"):
        with pytest.raises(UserError, match=f"the {backend} backend computes in float32.*native takes float16"):
            lower(sparse, tmp_path, backend, (1,), 1, "native", dtype="float16")


@pytest.mark.parametrize("backend", [[], ["--backend", "native"]])
def test_a_processor_without_it_is_told_so(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: list[str]
) -> None:
    monkeypatch.setattr(instruction_sets, "HALVES", {})
    arguments = ["compile", str(sparse), "--out", str(tmp_path), "--dtype", "float16", *backend]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert REFUSAL in result.output
    assert not list(tmp_path.iterdir())


def test_other_numbers_and_instruction_sets_are_refused(sparse: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--dtype", "bfloat16"], "--dtype bfloat16 is unknown on cpu; choose one of float32, float16"),
        (["--dtype", "float16", "--isa", "avx2"], "avx2 does not compute in float16, which needs AVX-512 FP16"),
    ):
        arguments = ["compile", str(sparse), "--out", str(tmp_path), "--backend", "native", *options]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert message in result.output
