"""Artifacts of the target cuda on machines without a GPU: compiled by the cost model, described, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support import write_checkpoint
from torch.autograd.profiler_util import FunctionEvent, Kernel

from compile.backend import AS_MODELLED, backend_names, find_backend
from compile.cuda import build, payload, proof
from compile.cuda.arch import gpu_architecture
from compile.lower import MARGIN, artifact_name, lower, up_to_date
from runtime import inspect
from runtime.artifact import MANIFEST, SCHEMA_VERSION, list_files, open_artifact
from runtime.cuda import gpu
from runtime.engine import load
from runtime.engines import inductor
from runtime.errors import ArtifactError, UserError
from st3.cli import main

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no GPU")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "sparse", "st3", 0.9)


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For a GPU that no machine has, so that it is compiled like this everywhere."""
    out = tmp_path_factory.mktemp("artifacts")
    return lower(checkpoint, out, "inductor", (6,), 1, "sm_123", device="cuda", dtype="float16")


def test_names_say_which_gpu_where_it_is_not_the_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(arch: str) -> str:
        return artifact_name("inductor", (1, 8), "cuda", "bfloat16", arch)

    monkeypatch.setattr(gpu, "architecture", lambda: None)
    assert name("sm_90") == "inductor-cuda-sm_90-bfloat16-b1-8"
    monkeypatch.setattr(gpu, "architecture", lambda: "sm_90")
    assert name("sm_90") == name("native") == "inductor-cuda-bfloat16-b1-8"
    assert name("sm_80") == "inductor-cuda-sm_80-bfloat16-b1-8"


def test_what_is_compiled_without_the_gpu(checkpoint: Path, artifact: Path) -> None:
    assert artifact.name == "inductor-cuda-sm_123-float16-b6"
    manifest = open_artifact(artifact).manifest
    assert manifest.schema_version == SCHEMA_VERSION == 4
    assert (manifest.target.device, manifest.target.architecture, manifest.target.dtype) == (
        "cuda",
        "sm_123",
        "float16",
    )
    assert manifest.proof is not None
    assert "no sm_123 here" in manifest.proof.note
    assert set(manifest.requirements.ops) >= {"dense"}
    assert len(manifest.layers) == 10
    for layer in manifest.layers:
        assert 0 < layer.macs_usable <= layer.macs_dense
        assert 1e-5 < layer.error < 5e-3
        assert layer.underflows == 0
        assert layer.chosen_us is None
        assert layer.kernels == ()
        assert "by the cost model" in layer.reason
    assert up_to_date(checkpoint, artifact, 1, "sm_123", device="cuda", dtype="float16")
    assert not up_to_date(checkpoint, artifact, 1, "sm_90", device="cuda", dtype="float16")
    assert not up_to_date(checkpoint, artifact, 1, "sm_123", device="cuda", dtype="bfloat16")


def test_the_tolerance_comes_from_what_was_measured(artifact: Path) -> None:
    opened = open_artifact(artifact)
    inductor.register_ops(opened)
    module = inductor._exported(opened)
    inputs, golden = (np.load(artifact / "golden" / f"{name}.npy") for name in ("inputs", "outputs"))
    with torch.no_grad():
        answer = module(torch.from_numpy(inputs)).numpy()
    assert answer.shape == golden.shape
    assert answer.dtype == np.float32
    error = np.abs(answer - golden).max() / np.abs(golden).max()
    tolerance = opened.manifest.tolerance.relative
    assert error < tolerance < 0.05
    assert tolerance > MARGIN * error / 4


def test_inspect_shows_what_is_known_of_each_layer(artifact: Path) -> None:
    lines = inspect.render(artifact)
    assert any("no sm_123 here" in line for line in lines if isinstance(line, str))
    assert any("0 weights that are not zero become zero in float16" in line for line in lines if isinstance(line, str))
    headings = [str(column.header) for column in lines[-1].columns]
    assert headings[-6:] == ["MACs used", "us dense", "us chosen", "error", "kernels", "why"]
    described = json.loads(json.dumps(inspect.describe(artifact)))
    assert described["layers"][0]["error"] > 0


@WITHOUT_GPU
def test_it_is_refused_where_there_is_no_gpu(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=r"needs a GPU of architecture sm_123; this machine has no GPU that torch"):
        load(artifact)


def test_it_is_refused_on_another_gpu(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "architecture", lambda: "sm_90")
    monkeypatch.setattr(gpu, "name", lambda: "NVIDIA H100")
    with pytest.raises(ArtifactError, match=r"needs .* sm_123; this machine has sm_90 \(NVIDIA H100\).*--arch sm_90"):
        load(artifact)


def test_an_op_that_the_runtime_lacks(artifact: Path) -> None:
    import msgspec

    opened = open_artifact(artifact)
    needs = msgspec.structs.replace(opened.manifest.requirements, ops=("dense", "abacus"))
    changed = msgspec.structs.replace(opened, manifest=msgspec.structs.replace(opened.manifest, requirements=needs))
    with pytest.raises(ArtifactError, match="needs the op 'abacus'"):
        inductor.register_ops(changed)


def test_a_damaged_program(artifact: Path, tmp_path: Path) -> None:
    import msgspec

    (tmp_path / "payload").mkdir()
    (tmp_path / "payload" / payload.PROGRAM).write_bytes(b"nothing")
    opened = open_artifact(artifact)
    files = list_files(tmp_path)
    manifest = msgspec.structs.replace(opened.manifest, files=files)
    with pytest.raises(ArtifactError, match=r"is no exported program"):
        inductor._exported(msgspec.structs.replace(opened, folder=tmp_path, manifest=manifest))


@pytest.mark.parametrize("version", [1, 2])
def test_manifests_of_older_schemas_are_read(artifact: Path, version: int, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(artifact, tmp_path / "old")
    data = json.loads((folder / MANIFEST).read_text())
    new = {"macs_usable", "kernels", "dense_us", "chosen_us", "error", "underflows"}
    data["layers"] = [{key: value for key, value in layer.items() if key not in new} for layer in data["layers"]]
    data["requirements"].pop("ops")
    data.pop("proof")
    if version == 1:
        data["target"].pop("batch_sizes")
    (folder / MANIFEST).write_text(json.dumps(data | {"schema_version": version}))
    manifest = open_artifact(folder).manifest
    assert manifest.proof is None
    assert manifest.layers[0].error is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "hopper"], "--arch hopper is no GPU architecture; give one like sm_80, sm_89, sm_90, or native"),
        (["--backend", "inductor", "--arch", "sm_75"], "--arch sm_75 is too old: the kernels need sm_80"),
        (["--dtype", "int8"], "--dtype int8 is unknown on cuda; choose one of float16, bfloat16, float32"),
        (["--backend", "native"], "--dtype float16: the native backend generates C++ for CPUs; give"),
        (["--backend", "onnxruntime"], "--dtype float16: the onnxruntime backend is the yardstick on CPUs"),
        pytest.param([], "torch finds no NVIDIA GPU on this machine", marks=WITHOUT_GPU),
    ],
)
def test_impossible_targets_are_refused(checkpoint: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(
        main, ["compile", str(checkpoint), "--out", str(tmp_path), "--target", "cuda", *options]
    )
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_half_precision_on_a_cpu_is_for_native(checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["compile", str(checkpoint), "--out", str(tmp_path), "--dtype", "float16"])
    assert "--dtype float16: the inductor backend computes in float32 on a CPU; native takes float16" in result.output


def test_architectures() -> None:
    assert gpu_architecture("sm_90") == "sm_90"
    assert gpu_architecture("sm_120") == "sm_120"
    assert find_backend("inductor").architecture("sm_89", "cuda") == "sm_89"
    assert [name for name in backend_names() if find_backend(name).unable("cpu") is None and name in CPU] == CPU


CPU = ["inductor", "native", "onnxruntime"]


def test_answers_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    from support import export_module
    from torch import nn

    from compile.from_checkpoint import TorchNetwork
    from runtime.artifact import Target

    layer = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        layer.weight.fill_(1e5)
    network = TorchNetwork(export_module(layer, (3, 4, 4)), (3, 4, 4), 2)
    inputs = np.ones((2, 3, 4, 4), np.float32)
    (tmp_path / "golden").mkdir()
    np.save(tmp_path / "golden/inputs.npy", inputs)
    np.save(tmp_path / "golden/outputs.npy", *network.answer(inputs))
    with pytest.raises(UserError, match=r"not finite in float16.*use --dtype bfloat16 or float32"):
        build.build(network, Target("cuda", "sm_123", "float16", 2, 1), tmp_path, AS_MODELLED)


@pytest.mark.parametrize(
    ("compiles", "captured", "said"),
    [
        (True, True, ""),
        (True, False, "the exported program runs as it is, Inductor's package of it does not (a stream is capturing)"),
        (False, True, "the exported program runs as it is, Inductor's package of it does not (no such kernel)"),
    ],
)
def test_a_package_that_no_cuda_graph_can_hold_is_not_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: bool, captured: bool, said: str
) -> None:
    def write_package(program: object, folder: Path) -> str:
        del program
        (folder / payload.PACKAGE).touch()
        if not compiles:
            raise RuntimeError("no such kernel\nand more")
        return "package"

    def replay(function: object, inputs: object) -> None:
        assert (function, inputs) == ("package", "inputs")
        if not captured:
            raise RuntimeError("a stream is capturing")

    monkeypatch.setattr(payload, "export", lambda *_: "program")
    monkeypatch.setattr(payload, "write_package", write_package)
    monkeypatch.setattr(payload, "write_program", lambda _, folder: (folder / payload.PROGRAM).touch())
    monkeypatch.setattr(build, "Replay", replay)
    function, note, times = build.write("network", "inputs", tmp_path, AS_MODELLED)
    assert (note, times) == (said, {})
    ships = payload.PROGRAM if said else payload.PACKAGE
    assert [path.name for path in tmp_path.iterdir()] == [ships]
    assert function == ("network" if said else "package")


def test_kernels_belong_to_the_layer_that_encloses_their_call() -> None:
    def event(name: str, kernels: list[str], parent: FunctionEvent | None = None) -> FunctionEvent:
        made = FunctionEvent(0, name, 1, 0, 1)
        made.kernels = [Kernel(kernel, 0, 1.0) for kernel in kernels]
        made.set_cpu_parent(parent) if parent is not None else None
        return made

    outer = event("st3-layer:conv1", [])
    call = event("aten::conv2d", ["void helper<int>()"], outer)
    inner = event("aten::cudnn_convolution", ["sm90_xmma_fprop", "sm90_xmma_fprop"], call)
    stray = event("aten::mean", ["reduce"])
    other = event("st3-layer:fc", ["gemm"])
    assert proof.attribute([outer, call, inner, stray, other]) == {
        "conv1": ("helper<int>()", "sm90_xmma_fprop"),
        "fc": ("gemm",),
    }
    assert proof.short("void " + "k" * 300) == "k" * 157 + "..."
