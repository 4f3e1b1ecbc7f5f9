"""The commands on an artifact, and the runtime on its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from runtime.data import Preprocessing
from runtime.engine import load
from runtime.errors import UserError
from runtime.pictures import read_inputs
from st3.cli import main


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_inputs_that_do_not_fit_are_refused(artifact: Path) -> None:
    engine = load(artifact)
    good = np.zeros((2, 1, 8, 8), np.float32)
    assert engine.run({"input": good})["output"].shape == (2, 3)
    for bad in ({"x": good}, {}, {"input": good[:, :, 1:]}, {"input": good[0]}, {"input": good.astype(np.float64)}):
        with pytest.raises(UserError, match=r"input.*(named 'input'|float32 \(n, 1, 8, 8\))"):
            engine.run(bad)
    engine.close()
    with pytest.raises(UserError, match="closed"):
        engine.run({"input": good})


def test_a_view_with_strides_is_taken_right(artifact: Path) -> None:
    engine = load(artifact)
    wide = np.random.default_rng(0).standard_normal((2, 1, 8, 16)).astype(np.float32)
    view = wide[:, :, :, ::2]
    expected = engine.run({"input": view.copy()})["output"]
    assert np.array_equal(engine.run({"input": view})["output"], expected)


def test_check_and_its_exit_status(artifact: Path) -> None:
    code, output = call("check", artifact, "--json")
    assert code == 0
    assert json.loads(output)[0]["passed"]
    (artifact / "payload/b2/weights.bin").write_bytes(b"")
    code, output = call("check", artifact)
    assert code == 1
    assert "FAILED" in output
    assert "its manifest says" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "0"], "0 is not in the range x>=1"),
        (["--require-digest", "abc"], "must be sha256: and 64 hex digits"),
        (["--require-signature", "nowhere.pem"], "the key nowhere.pem cannot be read"),
    ],
)
def test_a_demand_that_is_none_is_the_users_mistake_and_not_the_artifacts(
    artifact: Path, options: list[str], message: str
) -> None:
    code, output = call("check", artifact, *options)
    assert code == 2
    assert message in output
    assert "FAILED" not in output


def test_the_classes_stand_behind_the_names_of_their_files(artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 8), np.uint8))
    np.save(tmp_path / "b.npy", np.zeros((3, 1, 8, 8), np.uint8))
    lines = call("run", artifact, tmp_path / "a.npy", tmp_path / "a.npy")[1].splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(tmp_path / "a.npy")] * 2
    lines = call("run", artifact, tmp_path / "a.npy", tmp_path / "b.npy")[1].splitlines()
    assert [line.split(": ")[0] for line in lines] == ["0", "1", "2", "3"]


def test_run_on_pictures_and_arrays_agree(artifact: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", picture[None])
    np.save(tmp_path / "b.npy", np.stack([picture[None]] * 4))
    code, output = call(
        "run", artifact, tmp_path / "a.png", tmp_path / "a.npy", tmp_path / "b.npy", "--top", 3, "--json"
    )
    rows = json.loads(output)
    assert code == 0
    assert len(rows) == 6  # three batches of two
    assert all(row == rows[0] for row in rows)
    assert sum(item["probability"] for item in rows[0]) == pytest.approx(1.0)


def test_run_writes_raw_outputs(artifact: Path, tmp_path: Path) -> None:
    inputs = np.random.default_rng(1).standard_normal((3, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", inputs)
    code, _ = call("run", artifact, tmp_path / "x.npy", "--out", tmp_path / "y.npy")
    assert code == 0
    outputs = np.load(tmp_path / "y.npy")
    expected = load(artifact).run({"input": inputs[:2]})["output"]
    assert np.array_equal(outputs[:2], expected)


def test_pictures_of_any_size_are_resized_and_cropped(tmp_path: Path) -> None:
    Image.new("RGB", (50, 31), (255, 0, 0)).save(tmp_path / "p.jpg")
    for resize in (None, 24):
        got = read_inputs((tmp_path / "p.jpg",), Preprocessing((3, 16, 20), (0.0,) * 3, (1.0,) * 3, resize))
        assert got.shape == (1, 3, 16, 20)
        assert got[0, 0].min() > 0.95
        assert got[0, 1:].max() < 0.05


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.png", None, "is no file"),
        ("bad.png", b"not a picture", "cannot be read as a picture"),
        ("bad.npy", b"\x93NUMPY garbage", "not a plain .npy array"),
        ("pickle.npy", "object", "not a plain .npy array"),
        ("shape.npy", (2, 8, 8), "this artifact takes uint8 or float32"),
    ],
)
def test_bad_inputs_say_what_is_wrong(artifact: Path, tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "object":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif isinstance(content, tuple):
        np.save(path, np.zeros(content, np.float32))
    code, output = call("run", artifact, path)
    assert code == 2
    assert message in output
    assert "Traceback" not in output


def test_inspect_shows_the_digest_and_refuses_what_is_neither(artifact: Path, tmp_path: Path) -> None:
    code, output = call("inspect", artifact, "--json")
    assert code == 0
    data = json.loads(output)
    assert data["kind"] == "artifact"
    assert data["engine"] == "native"
    code, output = call("inspect", artifact / "golden")
    assert code == 2
    assert "neither a checkpoint" in output


def test_the_runtime_needs_neither_torch_nor_a_compiler(artifact: Path) -> None:
    code = (
        "import sys, numpy, runtime, os; os.environ['PATH'] = ''\n"
        f"engine = runtime.load({str(artifact)!r})\n"
        "engine.run({'input': numpy.zeros((2, 1, 8, 8), numpy.float32)})\n"
        "heavy = {'torch', 'onnxruntime', 'click', 'rich', 'st3', 'compile', 'train', 'bench'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_answers_without_torch() -> None:
    code = (
        "import sys\nfrom st3.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("train", "compile", "bench", "report", "check", "run", "inspect"):
        assert command in done.stdout
