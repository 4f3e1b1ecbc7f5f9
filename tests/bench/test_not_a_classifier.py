"""Networks that do not answer with classes are timed like others, and have no accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.measure.messages import Load, Predict, Sample, Sampled, Unavailable, Warm
from bench.measure.worker import _answer, open_bench
from runtime import UserError
from runtime.artifact import open_artifact
from runtime.data import Preprocessing, write_evaluation_set

ARTIFACT = Path(__file__).parents[1] / "runtime/schemas/4/onnxruntime"


@pytest.fixture
def request_(tmp_path: Path) -> Load:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), np.uint8)
    preprocessing = open_artifact(ARTIFACT).manifest.preprocessing
    write_evaluation_set(tmp_path / "set", "pictures", images, np.arange(5), preprocessing, tuple("abcde"))
    return Load(str(ARTIFACT), str(tmp_path / "set"), batch_size=2, threads=1, cpus=(), seed=0)


def test_latency_is_measured_and_accuracy_is_not(
    request_: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.measure.worker.pin", lambda cpus: cpus)
    bench, _ = open_bench(request_, tmp_path)
    assert _answer(bench, Warm(window_s=0.0, limit_s=0.0, tolerance=1.0)).calls > 0
    latency = _answer(bench, Sample(metric="latency", calls=3))
    assert isinstance(latency, Sampled)
    assert len(latency.samples) == 3
    for question in (Sample(metric="accuracy"), Predict()):
        refused = _answer(bench, question)
        assert isinstance(refused, Unavailable)
        assert refused.reason == (
            "accuracy is a classifier's, which answers with one number for each class; artifact1 has 'output' (3,), "
            "'map' (4, 8, 8)"
        )


def test_pictures_of_another_kind_are_refused(request_: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.measure.worker.pin", lambda cpus: cpus)
    other = Preprocessing((1, 8, 8), (0.0,), (1.0,))
    images, labels = np.zeros((2, 1, 8, 8), np.uint8), np.zeros(2, np.int64)
    write_evaluation_set(tmp_path / "other", "others", images, labels, other, ("a",))
    changed = Load(request_.artifact, str(tmp_path / "other"), batch_size=2, threads=1, cpus=(), seed=0)
    with pytest.raises(UserError, match="give the evaluation set that its training wrote"):
        open_bench(changed, tmp_path)
