"""From a checkpoint on disk to artifacts that answer like it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support import write_checkpoint as write
from trt_stubs import install, stub

import st3
from compile.backend import backend_names, find_backend
from compile.lower import backends_for, lower, up_to_date
from runtime.artifact import list_files, open_artifact, write_manifest
from runtime.check import replay
from runtime.engine import load
from runtime.errors import ArtifactError, UserError
from st3.cli import main

CPU_BACKENDS = [name for name in backend_names() if find_backend(name).unable("cpu") is None]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoints") / "sparse", "st3", 0.9)


@pytest.mark.parametrize("name", [name for name in CPU_BACKENDS if name != "inductor"])
@pytest.mark.parametrize("batch_size", [1, 6])
def test_artifact_answers_like_its_checkpoint(sparse: Path, tmp_path: Path, name: str, batch_size: int) -> None:
    folder = lower(sparse, tmp_path, name, (batch_size,), threads=1, isa="native")
    assert folder == tmp_path / f"{name}-b{batch_size}"
    engine = load(folder, threads=2)
    result = replay(engine)
    assert result.passed
    assert result.error < 1e-5
    manifest = engine.artifact.manifest
    assert manifest.input.shape == (batch_size, 1, 28, 28)
    assert manifest.lineage.sparsity == pytest.approx(0.9, abs=1e-3)
    assert sum(layer.macs_nonzero < layer.macs_dense for layer in manifest.layers) > 3
    # ResNet-8 of width 8: stem, three stages of two convolutions, two projections, classifier
    assert len(manifest.layers) == 10
    pixels = 28 * 28
    assert manifest.layers[0].macs_dense == 8 * 9 * pixels
    assert all(layer.reason for layer in manifest.layers)
    assert not list(tmp_path.glob(".*"))


def test_an_onnx_payload_does_not_say_where_its_author_works(sparse: Path, tmp_path: Path) -> None:
    artifact = lower(sparse, tmp_path, "onnxruntime", (1,), threads=1, isa="native")
    model = (artifact / "payload/model.onnx").read_bytes()
    assert b".py" not in model
    assert str(Path(__file__).parent).encode() not in model


def test_inductor_package_answers_like_its_checkpoint(sparse: Path, tmp_path: Path) -> None:
    engine = load(lower(sparse, tmp_path, "inductor", (2,), threads=1, isa="native"))
    assert replay(engine).error < 1e-5


def test_native_runs_sparse_layers_sparse(sparse: Path, tmp_path: Path) -> None:
    folder = lower(sparse, tmp_path, "native", (1,), threads=1, isa="portable")
    manifest = open_artifact(folder).manifest
    formats = {layer.name: layer.format for layer in manifest.layers}
    for layer in manifest.layers:
        assert formats[layer.name] == ("offset_stream" if layer.density < 0.8 else "dense")
    assert "offset_stream" in formats.values()
    assert manifest.target.architecture == "portable"
    assert folder.name == "native-portable-b1"  # beside this machine's own
    assert manifest.name.endswith(folder.name)
    dense = write(tmp_path / "dense", "dense", 0.0)
    big = open_artifact(lower(dense, tmp_path / "d", "native", (1,), 1, "portable"))
    small = open_artifact(folder)
    weights = [a.manifest.files["payload/b1/weights.bin"].size_bytes for a in (big, small)]
    assert weights[1] < 0.6 * weights[0]


def test_two_to_four_survives_compilation(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "nm", "st3", 0.5, "2:4")
    manifest = open_artifact(lower(checkpoint, tmp_path, "onnxruntime", (1,), 1, "native")).manifest
    patterns = {layer.name: layer.pattern for layer in manifest.layers}
    assert patterns["conv"] == "dense"  # one input channel
    assert [p for name, p in patterns.items() if name != "conv"] == ["2:4"] * 9


def test_backends_that_make_sense(sparse: Path, tmp_path: Path) -> None:
    assert backends_for(sparse) == ["native"]
    assert backends_for(write(tmp_path / "dense", "dense", 0.0)) == CPU_BACKENDS


def test_command_compiles_once(sparse: Path, tmp_path: Path) -> None:
    arguments = ["compile", str(sparse), "--out", str(tmp_path), "--backend", "onnxruntime", "--json"]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)[0]["fresh"] is False
    assert json.loads(CliRunner().invoke(main, arguments).stdout)[0]["fresh"] is True
    artifact = tmp_path / "sparse/onnxruntime-b1"
    assert up_to_date(sparse, artifact, 1, "native")
    assert not up_to_date(sparse, artifact, 2, "native")
    (artifact / "payload/model.onnx").write_bytes(b"")
    assert not up_to_date(sparse, artifact, 1, "native")
    assert json.loads(CliRunner().invoke(main, arguments).stdout)[0]["fresh"] is False


def test_a_refused_build_keeps_the_old_artifact(sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = lower(sparse, tmp_path, "native", (1,), 1, "portable")
    digest = open_artifact(old).digest
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler"):
        lower(sparse, tmp_path, "native", (1,), 1, "portable")
    assert open_artifact(old).digest == digest
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "abacus"], "unknown backend 'abacus'; choose one of inductor, native, onnxruntime"),
        (["--isa", "mmx"], "unknown instruction set 'mmx'; choose one of native, avx512, avx2, aarch64, portable"),
        (["--batch-size", "0"], "a batch size must be 1 or more, got 0"),
        (["--batch-size", "1,-4"], "a batch size must be 1 or more, got -4"),
        (["--batch-size", "1;4"], "1;4 is neither a number nor numbers with commas"),
        (["--threads", "0"], "0 is not in the range x>=1"),
        (["--mean", "0.5"], "is a checkpoint, which says how its pictures are normalised; leave --mean and --std out"),
    ],
)
def test_impossible_targets_are_refused(sparse: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(
        main, ["compile", str(sparse), "--out", str(tmp_path), "--backend", "native", "--no-tune", *options]
    )
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_onnx_file_that_cannot_be_read(sparse: Path, tmp_path: Path) -> None:
    folder = lower(sparse, tmp_path, "onnxruntime", (1,), 1, "native")
    manifest = open_artifact(folder).manifest
    # the second is a message of protobuf's, and no model
    for content, message in ((b"no model", "is no ONNX file"), (b"\x08\x07", r"ONNX Runtime .* cannot load")):
        (folder / "payload/model.onnx").write_bytes(content)
        write_manifest(folder, msgspec.structs.replace(manifest, files=list_files(folder)))
        with pytest.raises(ArtifactError, match=message):
            load(folder)


def test_every_backend_says_whether_it_uses_zeros() -> None:
    assert {name: find_backend(name).uses_zeros() for name in backend_names()} == {
        "inductor": False,
        "native": True,
        "onnxruntime": False,
        "tensorrt": False,
        "torch_tensorrt": False,
    }
    assert all(find_backend(name).uses_zeros("cuda") for name in ("inductor", "tensorrt", "torch_tensorrt"))


def test_a_backend_without_the_gpus_architecture_is_left_out(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tensorrt_rtx_bindings=stub("1.7.1.116"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backends_for(sparse, "cuda", "sm_89") == ["inductor", "tensorrt"]
    assert backends_for(sparse, "cuda", "sm_90") == ["inductor"]
    # where nobody knows it the first one says why
    assert backends_for(sparse, "cuda", "native") == ["inductor", "tensorrt"]
    install(monkeypatch)
    assert backends_for(sparse, "cuda", "native") == ["inductor"]


def test_golden_data_is_what_torch_says(sparse: Path, tmp_path: Path) -> None:
    folder = lower(sparse, tmp_path, "onnxruntime", (3,), 1, "native")
    inputs, outputs = np.load(folder / "golden/inputs.npy"), np.load(folder / "golden/outputs.npy")
    program = st3.load_checkpoint(sparse).exported_program()
    with torch.no_grad():
        assert np.array_equal(program.module()(torch.from_numpy(inputs)).numpy(), outputs)
