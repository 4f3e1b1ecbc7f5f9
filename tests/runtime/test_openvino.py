"""OpenVINO runs the model of an onnxruntime artifact; where it is missing, what to do is said."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from support import write_checkpoint

from compile.lower import lower
from runtime.engine import load
from runtime.errors import ArtifactError


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino")
    return lower(write_checkpoint(folder / "dense", "dense", 0.0), folder, "onnxruntime", (2,), 1, "native")


def test_it_answers_like_onnx_runtime_and_each_answer_stays(artifact: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    ours, reference = load(artifact, threads=1, engine="openvino"), load(artifact, threads=1)
    pictures = np.random.default_rng(0).standard_normal((2, 2, 1, 28, 28)).astype(np.float32)
    answers = [ours.run({"input": batch})["output"] for batch in pictures]
    for answer, batch in zip(answers, pictures, strict=True):
        expected = reference.run({"input": batch})["output"]
        assert np.abs(answer - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_model_that_is_none_is_refused(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    shutil.copytree(artifact, tmp_path / "broken")
    model = tmp_path / "broken/payload/model.onnx"
    model.write_bytes(bytes(model.stat().st_size))
    with pytest.raises(ArtifactError, match=r"OpenVINO .* cannot load .*model\.onnx"):
        load(tmp_path / "broken", threads=1, verify=False, engine="openvino")


def test_missing_it_says_how_to_install_it(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ArtifactError, match=r"^openvino is not installed: pip install openvino$"):
        load(artifact, threads=1, engine="openvino")


def test_an_unknown_engine_is_refused_with_the_known_ones(artifact: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"needs the engine 'tvm'; this runtime has .*native, onnxruntime, openvino"
    ):
        load(artifact, threads=1, engine="tvm")
