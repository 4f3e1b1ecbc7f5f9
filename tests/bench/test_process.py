"""A real worker process with a real artifact: its answers, its death, its silence, and what it says of paths."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench_builders import PICTURES, make_artifact

from bench.environment import usable_cpus
from bench.measure.messages import Infer, Inferred, Load, Loaded, Profile, Sample, Sampled, Warm, Warmed
from bench.measure.process import ProcessWorker, WorkerError, anonymous
from runtime.data import load_evaluation_set

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("onnxruntime", reason="the small artifacts run in ONNX Runtime")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifact") / "st3" / "onnxruntime-b32", "st3", 0.9, 32)


@pytest.fixture
def worker() -> Iterator[ProcessWorker]:
    worker = ProcessWorker()
    yield worker
    worker.close()
    assert worker._process.returncode is not None


def load(worker: ProcessWorker, artifact: Path, evaluation: Path) -> Loaded:
    request = Load(str(artifact), str(evaluation), batch_size=32, threads=1, cpus=usable_cpus()[:1], seed=0)
    answer = worker.ask(request, 60)
    assert isinstance(answer, Loaded)
    return answer


def sampled(worker: ProcessWorker, metric: str, calls: int = 0) -> list[float]:
    answer = worker.ask(Sample(metric=metric, calls=calls), 60)
    assert isinstance(answer, Sampled)
    return answer.samples


def test_every_metric_of_a_real_artifact(worker: ProcessWorker, artifact: Path, evaluation: Path) -> None:
    loaded = load(worker, artifact, evaluation)
    if sys.platform == "linux":
        assert loaded.cpus == usable_cpus()[:1]
    warmed = worker.ask(Warm(window_s=0.01, limit_s=0.2, tolerance=0.5), 60)
    assert isinstance(warmed, Warmed)
    assert warmed.calls >= 3
    assert len(sampled(worker, "latency", 7)) == 7
    assert min(sampled(worker, "latency", 7)) > 0
    # 70 pictures in batches of 32: the last six are padded, and seven of the seventy labels are wrong
    assert sampled(worker, "accuracy") == [(PICTURES - 7) / PICTURES]
    assert sampled(worker, "size") == [float((artifact / "payload/model.onnx").stat().st_size)]
    (memory,) = sampled(worker, "memory")
    assert 2e7 < memory < 1e9


def test_outputs_are_those_of_the_first_pictures_and_only_native_has_steps(
    worker: ProcessWorker, artifact: Path, evaluation: Path
) -> None:
    load(worker, artifact, evaluation)
    answer = worker.ask(Infer(pictures=33), 60)  # one more than a batch
    assert isinstance(answer, Inferred)
    assert [len(row) for row in answer.outputs] == [3] * 33
    labels = load_evaluation_set(evaluation).labels[7:33]  # the first seven are wrong on purpose
    assert np.argmax(answer.outputs, axis=1)[7:].tolist() == labels.tolist()
    with pytest.raises(WorkerError, match="cannot be timed: only native's can"):
        worker.ask(Profile(calls=1), 60)


def test_a_dead_worker_says_how_it_died(worker: ProcessWorker, artifact: Path, evaluation: Path) -> None:
    load(worker, artifact, evaluation)
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="was ended by SIGKILL"):
        sampled(worker, "latency", 1)


def test_a_bad_artifact_is_a_reason_and_no_path(worker: ProcessWorker, tmp_path: Path, evaluation: Path) -> None:
    folder = make_artifact(tmp_path / "gmp" / "onnxruntime-b1", "gmp", 0.9, broken="no model")
    with pytest.raises(WorkerError, match=r"payload/model\.onnx is no ONNX file") as error:
        load(worker, folder, evaluation)
    assert str(tmp_path) not in str(error.value)


def test_an_evaluation_set_for_another_network_is_refused(
    worker: ProcessWorker, artifact: Path, tmp_path: Path, evaluation: Path
) -> None:
    text = (evaluation / "evaluation.json").read_text()
    for name in ("images.npy", "labels.npy"):
        (tmp_path / name).write_bytes((evaluation / name).read_bytes())
    (tmp_path / "evaluation.json").write_text(text.replace("0.25", "0.26"))
    with pytest.raises(WorkerError, match="give the evaluation set that its training wrote"):
        load(worker, artifact, tmp_path)


def test_a_silent_worker_is_given_up(worker: ProcessWorker, artifact: Path, evaluation: Path) -> None:
    load(worker, artifact, evaluation)
    worker.suspend()
    with pytest.raises(WorkerError, match=r"did not answer within 0.2 s"):
        worker.ask(Sample(metric="latency", calls=1), 0.2)
    begin = perf_counter()
    worker.close()  # also a stopped process ends
    assert perf_counter() - begin < 10


def test_what_an_engine_prints_does_not_reach_the_answers(tmp_path: Path, evaluation: Path) -> None:
    # an engine's package prints on import, through Python and past Python
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, os, sys\n"
        "real = builtins.__import__\n"
        "def loud(name, *rest, **more):\n"
        "    if name == 'onnxruntime':\n"
        "        print('hello from Python', flush=True)\n"
        "        os.write(1, b'hello from C\\n')\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = loud\n"
    )
    folder = make_artifact(tmp_path / "a", "st3", 0.9, 32)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        worker = ProcessWorker()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    try:
        load(worker, folder, evaluation)
        assert len(sampled(worker, "latency", 2)) == 2
        worker._stderr.seek(0)
        printed = worker._stderr.read()
        assert b"hello from Python" in printed
        assert b"hello from C" in printed
    finally:
        worker.close()


def test_paths_are_shortened() -> None:
    text = "cannot load /home/jane/work/x/payload/model.onnx: No such file"
    assert anonymous(text) == "cannot load payload/model.onnx: No such file"
    assert anonymous("3/4 of 1 / 2 and a/b/c") == "3/4 of 1 / 2 and a/b/c"
