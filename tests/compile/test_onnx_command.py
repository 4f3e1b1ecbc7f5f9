"""From an ONNX file to artifacts, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx_models import Builder, batch_norm
from PIL import Image

from compile.lower import backends_for, lower, up_to_date
from compile.network import Normalisation
from compile.onnx_file import digest_of
from runtime.artifact import open_artifact
from runtime.check import replay
from runtime.engine import load
from runtime.errors import UserError
from st3.cli import main


def write(path: Path, batch: int | str = "N", shape: bool = False, external: bool = False) -> Path:
    """Two sparse convolutions, a residual and a classifier; ``shape`` computes the batch that it reshapes to."""
    build = Builder(17)
    first = build.node("Relu", build.conv("x", 3, 8))
    second = build.node("Relu", build.node("Add", build.conv(first, 8, 8), first))
    pooled = build.node("GlobalAveragePool", second)
    sizes = build.shape(batch if isinstance(batch, int) else -1, 8)
    if shape:
        sizes = build.node("Concat", build.shape(int(batch)), build.shape(8), axis=0)
    value = build.node("Gemm", build.node("Reshape", pooled, sizes), build.normal(5, 8), build.normal(5), transB=1)
    model = build.model(value, (batch, 3, 9, 7))
    if external:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=64)
    else:
        onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model") / "small.onnx")


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_one_command_from_a_file_to_a_checked_artifact(model: Path, tmp_path: Path) -> None:
    arguments = [
        "compile",
        model,
        "--target",
        "cpu",
        "--no-tune",
        "--out",
        tmp_path,
        "--mean",
        "0.4,0.5,0.6",
        "--std",
        "0.25",
    ]
    code, output = call(*arguments, "--json")
    assert code == 0, output
    made = json.loads(output.splitlines()[-1])
    assert made[0].pop("seconds") > 0
    assert made == [
        {"artifact": str(tmp_path / "small/native-b1"), "backend": "native", "batch_sizes": [1], "fresh": False}
    ]
    assert "up to date" in call(*arguments)[1]
    artifact = tmp_path / "small/native-b1"
    code, output = call("check", artifact)
    assert code == 0, output

    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    code, output = call("run", artifact, tmp_path / "p.png", "--top", 5, "--json")
    assert code == 0, output
    pixels = (picture.transpose(2, 0, 1)[None] / 255 - np.array([0.4, 0.5, 0.6]).reshape(3, 1, 1)) / 0.25
    (logits,) = onnxruntime.InferenceSession(str(model)).run(None, {"x": pixels.astype(np.float32)})
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    for row in json.loads(output)[0]:
        assert row["class"] == str(row["index"])
        assert row["probability"] == pytest.approx(expected[row["index"]], abs=1e-5)

    code, output = call("inspect", artifact)
    assert code == 0, output
    assert "from small.onnx: onnx, unstructured" in output
    assert "top-1 unknown" in output


def test_the_manifest_says_where_an_artifact_came_from(model: Path, tmp_path: Path) -> None:
    manifest = open_artifact(lower(model, tmp_path, "onnxruntime", (2,), 1, "native")).manifest
    lineage = manifest.lineage
    assert (lineage.recipe, lineage.method, lineage.accuracy, lineage.seed) == ("small.onnx", "onnx", None, None)
    assert lineage.checkpoint_sha256 == digest_of(model)
    assert lineage.versions["opset"] == "17"
    weights = [layer for layer in manifest.layers if layer.op in ("conv2d", "linear")]
    assert [layer.weight_shape for layer in weights] == [(8, 3, 3, 3), (8, 8, 3, 3), (5, 8)]
    assert [layer.macs_dense for layer in weights] == [216 * 63, 576 * 63, 40]
    total, nonzeros = 216 + 576 + 40, sum(layer.nonzeros for layer in weights)
    assert lineage.sparsity == pytest.approx(1 - nonzeros / total)
    assert 0.2 < lineage.sparsity < 0.4
    assert manifest.input.name == "x"
    assert manifest.input.shape == (2, 3, 9, 7)
    assert manifest.classes == ("0", "1", "2", "3", "4")
    assert manifest.preprocessing.mean == (0.0, 0.0, 0.0)
    assert manifest.preprocessing.std == (1.0, 1.0, 1.0)
    assert backends_for(model) == ["native"]


def test_other_weights_pictures_or_data_files_are_compiled_again(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", external=True)
    artifact = lower(model, tmp_path, "onnxruntime", (1,), 1, "native")
    assert replay(load(artifact)).passed
    assert up_to_date(model, artifact, 1, "native")
    assert not up_to_date(model, artifact, 2, "native")
    assert up_to_date(model, artifact, 1, "native", Normalisation(mean=(0.0, 0.0, 0.0)))
    assert not up_to_date(model, artifact, 1, "native", Normalisation(mean=(0.5,)))
    data = tmp_path / "m.onnx.data"
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1
    data.write_bytes(raw)
    assert not up_to_date(model, artifact, 1, "native")
    data.unlink()
    with pytest.raises(UserError, match=r"keeps its weights in m\.onnx\.data, which is not beside it"):
        up_to_date(model, artifact, 1, "native")


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_file_for_another_batch_is_rewritten(tmp_path: Path, batch: int) -> None:
    artifact = lower(write(tmp_path / "m.onnx", batch), tmp_path, "onnxruntime", (3,), 1, "native")
    assert replay(load(artifact)).error < 1e-5
    # the reference comes from the file as it was given, in batches of its own
    inputs, outputs = np.load(artifact / "golden/inputs.npy"), np.load(artifact / "golden/outputs.npy")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    (first,) = session.run(None, {"x": np.resize(inputs, (batch, 3, 9, 7))})
    np.testing.assert_allclose(outputs[: min(3, batch)], first[: min(3, batch)], rtol=1e-5, atol=1e-6)


def test_a_batch_that_cannot_be_rewritten_is_refused(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", 2, shape=True)
    assert replay(load(lower(model, tmp_path, "onnxruntime", (2,), 1, "native"))).passed
    with pytest.raises(UserError, match=r"made for batches of 2 and cannot be rewritten for 3; .*--batch-size 2"):
        lower(model, tmp_path, "onnxruntime", (3,), 1, "native")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--backend", "inductor"],
            "is an ONNX file, which the inductor backend cannot compile: it needs a checkpoint",
        ),
        (["--target", "tpu"], "--target tpu is unknown; choose one of cpu, cuda"),
        (["--isa", "avx51"], "unknown instruction set 'avx51'; choose one of native, avx512"),
        (["--threads", "0"], "0 is not in the range x>=1"),
        (["--dtype", "int8"], "--dtype int8 is unknown on cpu; choose one of float32"),
        (["--mean", "0.5,0.5"], "--mean 0.5,0.5 --std 1.0: "),
        (["--std", "0"], "std positive"),
        (["--std", "a"], "'a' is neither one number nor numbers with commas between"),
    ],
)
def test_impossible_options_are_refused(model: Path, tmp_path: Path, options: list[str], message: str) -> None:
    code, output = call("compile", model, "--no-tune", "--out", tmp_path, *options)
    assert code == 2
    assert message in " ".join(output.split())
    assert not list(tmp_path.rglob("manifest.json"))


def test_two_sources_of_one_name_would_overwrite_each_other(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / model.name
    other.parent.mkdir()
    other.write_bytes(model.read_bytes())
    code, output = call("compile", model, other, "--no-tune", "--out", tmp_path / "out")
    assert code == 2
    assert f"are both called {model.stem}" in output
    assert not (tmp_path / "out").exists()


def test_what_is_neither_checkpoint_nor_file(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    for name, message in (
        ("model.pt", "is no folder and does not end in .onnx; give a checkpoint folder (st3 train) or an ONNX file"),
        ("model.pt", "of a file of weights `st3 sparsify` makes one"),
        ("nothing.onnx", "does not exist; give a checkpoint folder (st3 train) or an ONNX file"),
        ("nothing", "does not exist; give a checkpoint folder"),
    ):
        code, output = call("compile", tmp_path / name, "--out", tmp_path / "out")
        assert code == 2
        assert message in output


def test_every_kind_of_node_comes_through_the_compiler(tmp_path: Path) -> None:
    build = Builder(20)
    padded = build.node("Pad", "x", build.shape(0, 0, 1, 1, 0, 0, 1, 1))
    first = build.node("HardSwish", build.conv(build.node("MaxPool", padded, kernel_shape=[2, 2]), 3, 8))
    gate = build.node("Sigmoid", build.conv(build.axes("ReduceMean", first, [2, 3]), 8, 8, 1))
    gated = build.node("Mul", first, gate)
    last = build.node("Transpose", gated, perm=[0, 2, 3, 1])
    normal = build.node("LayerNormalization", last, build.normal(8), build.normal(8), axis=-1)
    wide = build.node("Gelu", build.node("Add", build.node("MatMul", normal, build.normal(8, 12)), build.normal(12)))
    back = build.node("Transpose", build.node("MatMul", wide, build.normal(12, 8)), perm=[0, 3, 1, 2])
    joined = build.node("Concat", build.node("Add", back, gated), batch_norm(build, first, 8), axis=1)
    pooled = build.node("AveragePool", joined, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    value = build.node("Gemm", build.node("Flatten", pooled), build.normal(5, 16 * 5 * 4), transB=1)
    onnx.save(build.model(value), tmp_path / "m.onnx")
    artifact = lower(tmp_path / "m.onnx", tmp_path, "native", (3,), 1, "native")
    assert replay(load(artifact)).error < 1e-5
