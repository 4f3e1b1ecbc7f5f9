"""The runtime as a wheel of its own: what is in it, and an artifact made elsewhere in a venv that has nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from wheels import ALONE, build_wheel, call, venv_with


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty venv with numpy and msgspec, and the wheel."""
    folder = tmp_path_factory.mktemp("venv")
    python = venv_with(folder, ("numpy", "msgspec"))
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", wheel, cwd=folder)
    return folder


def test_what_is_in_the_wheel(wheel: Path) -> None:
    assert wheel.stat().st_size < 1 << 20
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"runtime"}
    assert {"runtime/py.typed", "runtime/LICENSE", "runtime/engines/native.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".so")]
    needs = [line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert sorted(line for line in needs if "extra ==" not in line) == ["msgspec>=0.19", "numpy>=1.26"]


def test_an_empty_venv_runs_an_artifact_made_elsewhere(venv: Path, artifact: Path, tmp_path: Path) -> None:
    listed = call(
        sys.executable, "-m", "pip", "--python", venv / "bin/python", "list", "--format", "json", cwd=tmp_path
    )
    assert {row["name"].replace("_", "-") for row in json.loads(listed.stdout)} == {"msgspec", "numpy", "st3-runtime"}
    command = venv / "bin/st3-runtime"
    assert call(command, "check", artifact, cwd=tmp_path).stdout.startswith("ok ")
    np.save(tmp_path / "x.npy", np.ones((3, 1, 8, 8), np.float32))
    rows = json.loads(call(command, "run", artifact, "x.npy", "--top", 3, "--json", cwd=tmp_path).stdout)
    assert [len(row) for row in rows] == [3, 3, 3]
    code = (
        "import sys, numpy, runtime\n"
        f"engine = runtime.load({str(artifact)!r}, threads=2)\n"
        "assert engine.run({'input': numpy.ones((2, 1, 8, 8), numpy.float32)})['output'].shape == (2, 3)\n"
        "assert not {'torch', 'click', 'rich', 'onnxruntime', 'PIL', 'cryptography'} & set(sys.modules)\n"
        "assert 'site-packages' in runtime.__file__\n"
    )
    call(venv / "bin/python", "-c", code, cwd=tmp_path)


def test_it_imports_fast_enough(venv: Path, tmp_path: Path) -> None:
    """The best of five, in processor time. Where a busy or slow machine needs long for numpy, that is the measure."""
    code = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"
    call(venv / "bin/python", "-m", "compileall", "-q", next(venv.glob("lib/*/site-packages/runtime")), cwd=tmp_path)
    best = {
        name: min(float(call(venv / "bin/python", "-c", code.format(name), cwd=tmp_path).stdout) for _ in range(5))
        for name in ("runtime", "numpy")
    }
    assert best["runtime"] < max(0.15, 1.5 * best["numpy"])


def test_what_an_extra_is_needed_for_is_said(venv: Path, artifact: Path, tmp_path: Path) -> None:
    command = venv / "bin/st3-runtime"
    for words, message in (
        (("sign", artifact, "--key", "k.pem"), "pip install 'st3-runtime[sign]'"),
        (("serve", artifact), "pip install 'st3-runtime[serve]'"),
        (("run", artifact, "picture.png"), "is no file"),
        (("check", venv / "bin"), "there is no artifact at or below"),
    ):
        done = subprocess.run(
            [str(word) for word in (command, *words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=ALONE,
            check=False,
        )
        assert done.returncode == 2, done
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
