"""Artifacts of every schema that was ever written are opened, checked and run."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.abi import SIGNATURES
from runtime.artifact import MANIFEST, SCHEMA_VERSION, open_artifact
from runtime.check import replay
from runtime.engine import load
from runtime.errors import UserError

FOLDER = Path(__file__).parent / "schemas"
SAMPLES = sorted(path.parent for path in FOLDER.glob(f"*/*/{MANIFEST}"))
NATIVE_HERE = sys.platform == "linux" and platform.machine() == "x86_64"


def test_every_schema_and_every_abi_before_this_one_has_its_sample() -> None:
    known = {(json.loads((path / MANIFEST).read_text())["schema_version"], path.name) for path in SAMPLES}
    assert known == {(n, backend) for n in range(1, SCHEMA_VERSION + 1) for backend in ("native", "onnxruntime")}
    if NATIVE_HERE:
        found = {load(path)._networks[2].library.st3_abi_version() for path in SAMPLES if path.name == "native"}
        assert found >= {version for version in SIGNATURES if version < max(SIGNATURES)}
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 400_000


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_old_artifact_runs(sample: Path) -> None:
    if sample.name == "native" and not NATIVE_HERE:
        pytest.skip("the sample is for x86-64 Linux")
    engine = load(sample, threads=2)
    result = replay(engine)
    assert result.passed
    assert 0 < result.error < 1e-5
    given = np.load(sample / "golden/inputs.npy")
    expected = np.load(sample / "golden/outputs.npy")
    np.testing.assert_allclose(engine.run({"input": given})["output"], expected, rtol=1e-4, atol=1e-6)
    assert list(engine.run({"input": given})) == (["output", "map"] if sample.parent.name == "4" else ["output"])
    if engine.any_batch_size:
        five = np.concatenate([given, given, given[:1]])
        wanted = np.concatenate([expected, expected, expected[:1]])
        np.testing.assert_allclose(engine.run({"input": five})["output"], wanted, rtol=1e-4, atol=1e-6)
    engine.close()


@pytest.mark.skipif(not NATIVE_HERE, reason="the sample is for x86-64 Linux")
def test_what_an_old_library_cannot_do_is_said() -> None:
    engine = load(FOLDER / "1/native")
    with pytest.raises(UserError, match="older st3 and cannot be profiled"):
        engine.profile({"input": np.zeros((2, 1, 8, 8), np.float32)})


def test_the_same_network_has_one_answer_in_every_schema() -> None:
    answers = [open_artifact(path).folder / "golden/outputs.npy" for path in SAMPLES]
    for path in answers[1:]:
        np.testing.assert_allclose(np.load(path), np.load(answers[0]), rtol=1e-5)
