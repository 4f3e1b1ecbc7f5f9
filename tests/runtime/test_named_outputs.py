"""An artifact with several outputs in the runtime: arrays by name, batches, the command line, what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runtime import cli
from runtime.artifact import MANIFEST, open_artifact
from runtime.batches import run_all, run_outputs
from runtime.cuts import run_rows, warm
from runtime.engine import Engine, load
from runtime.errors import ArtifactError, UserError
from runtime.triton.config import Options, config, kind_of

SAMPLES = Path(__file__).parent / "schemas/4"
NATIVE_HERE = sys.platform == "linux" and platform.machine() == "x86_64"


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 1, 8, 8)).astype(np.float32)


@pytest.fixture(params=["native", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "native" and not NATIVE_HERE:
        pytest.skip("the sample is for x86-64 Linux")
    return load(SAMPLES / request.param)


def test_outputs_come_by_name_into_the_memory_that_is_given(engine: Engine) -> None:
    given = pictures(2)
    expected = engine.run({"input": given})
    assert {name: array.shape for name, array in expected.items()} == {"output": (2, 3), "map": (2, 4, 8, 8)}
    maps = np.full((2, 4, 8, 8), np.nan, np.float32)
    for out in ({"map": maps}, {"map": maps, "output": np.zeros((2, 3), np.float32)}):
        answer = engine.run({"input": given}, out=out)
        assert list(answer) == ["output", "map"]
        assert answer["map"] is maps
        for name, array in expected.items():
            assert np.array_equal(answer[name], array)
    both = np.zeros(2 * 4 * 64 + 3, np.float32)
    for wrong, message in (
        ({"maps": maps}, r"has the outputs \['output', 'map'\], got \['maps'\]"),
        ({}, r"has the outputs \['output', 'map'\], got \[\]"),
        ({"map": maps[:1]}, r"output 'map' must be float32 \(2, 4, 8, 8\)"),
        ({"output": both[:6].reshape(2, 3), "map": both[3:].reshape(2, 4, 8, 8)}, "overlaps output 'output'"),
    ):
        with pytest.raises(UserError, match=message):
            engine.run({"input": given}, out=wrong)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batches_are_cut_and_joined_for_each(engine: Engine, count: int) -> None:
    given = pictures(count)
    expected = [run_outputs(engine, given[i : i + 1]) for i in range(count)]
    whole = run_outputs(engine, given)
    cut = run_rows(engine, [2] * ((count + 1) // 2), given)
    for index, name in enumerate(("output", "map")):
        wanted = np.concatenate([answer[name] for answer in expected])
        np.testing.assert_allclose(whole[name], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cut[index], wanted, rtol=1e-5, atol=1e-6)
    assert set(warm(engine)) == set(engine.artifact.manifest.target.sizes)
    with pytest.raises(UserError, match=r"has several outputs \('output', 'map'\): call run_outputs"):
        run_all(engine, given)


def call(*words: object) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        return cli.main([str(word) for word in words]), out.getvalue()


def test_the_command_line_says_what_each_came_to(tmp_path: Path) -> None:
    artifact = SAMPLES / "onnxruntime"
    np.save(tmp_path / "x.npy", pictures(3))
    code, text = call("run", artifact, tmp_path / "x.npy", "--out", tmp_path / "y.npz")
    assert code == 0
    assert text.splitlines()[2].startswith("2: output (3,) from ")
    assert ", map (4, 8, 8) from 0 to " in text
    expected = run_outputs(load(artifact), pictures(3))
    with np.load(tmp_path / "y.npz", allow_pickle=False) as written:
        assert written.files == ["output", "map"]
        for name in written.files:
            assert np.array_equal(written[name], expected[name])
    code, text = call("run", artifact, tmp_path / "x.npy", "--json")
    assert json.loads(text)[0][1]["shape"] == [4, 8, 8]
    code, text = call("check", artifact)
    assert code == 0
    assert "the worst of 2 outputs" in text
    code, text = call("inspect", artifact)
    assert "takes input 2x1x8x8, answers with output 2x3, map 2x4x8x8" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["more_outputs"][0].update(name="output"), "must have names of their own"),
        (lambda data: data["more_outputs"][0].update(name="input"), "must have names of their own"),
        (lambda data: data["more_outputs"][0].update(shape=[1, 4, 8, 8]), "must begin with batch_size 2"),
        (lambda data: data["more_outputs"][0].update(shape=[2, 4, 8, 9]), r"outputs-1.npy is float32 \(2, 4, 8, 8\)"),
        (lambda data: data["files"].pop("golden/outputs-1.npy"), "does not list golden/outputs-1.npy"),
        (lambda data: data["tolerance"].update(more=[0.1, 0.1]), "2 tolerances after the first"),
        (lambda data: data["more_outputs"].extend(data["more_outputs"] * 64), "damaged"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    shutil.copytree(SAMPLES / "onnxruntime", tmp_path / "a")
    path = tmp_path / "a" / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=message):
        open_artifact(tmp_path / "a")


@pytest.mark.skipif(not NATIVE_HERE, reason="the sample is for x86-64 Linux")
def test_a_library_with_fewer_outputs_than_the_manifest(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "native", tmp_path / "a")
    path = tmp_path / "a" / MANIFEST
    data = json.loads(path.read_text())
    data["more_outputs"] = []
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="has 2 outputs, the manifest 1; it does not belong to this library"):
        load(tmp_path / "a")


def test_tritons_configuration_lists_them() -> None:
    artifact = open_artifact(SAMPLES / "onnxruntime")
    for options, dims in ((Options(), ("[2, 3]", "[2, 4, 8, 8]")), (Options(python=True), ("[3]", "[4, 8, 8]"))):
        text = config("net", [artifact], kind_of(artifact, options), options)
        assert text.count("output {") == 2
        assert [line.split(": ")[1] for line in text.splitlines() if "dims" in line][1:] == list(dims)
        assert text.index('name: "output"') < text.index('name: "map"')
    package = msgspec.structs.replace(artifact.manifest, engine="inductor", files={"payload/model.pt2": 0})
    opened = msgspec.structs.replace(artifact, manifest=package)
    text = config("net", [opened], kind_of(opened, Options()), Options())
    assert text.index('name: "OUTPUT__0"') < text.index('name: "OUTPUT__1"')
