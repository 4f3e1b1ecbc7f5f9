"""The CPU engine's benchmark on a tiny network, through all of it: artifacts in, rows, raw record and tables out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support import write_checkpoint

import bench.cpu.command as command
import bench.cpu.plan as planning
import bench.cpu.yardsticks as yardsticks
from bench.cpu.alone import run_alone
from bench.cpu.command import compile_times, main, refuse_wrong_answers
from bench.cpu.logits import LIMITS, compare
from bench.machine.precision import precisions_of
from bench.measure.process import ProcessWorker
from bench.measurement import Measurements, Settings
from bench.measurement_file import read_measurements
from bench.naming import engine_label
from compile.lower import lower
from runtime.data import write_evaluation_set
from runtime.errors import UserError
from runtime.machine import cpu_flags
from st3.checkpoint import load_checkpoint

CONDITIONS = ((1, 1), (4, 1))
KEYS = ["weights", "batch_size", "threads", "engine", "latency_ms_p50", "latency_ms_p90", "ratio_to_onnxruntime"]
KEYS += ["dtype", "ratio_to_dense"]
HERE = precisions_of(cpu_flags())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of dense weights and of ``st3_90``, an evaluation set, and what the compiler said."""
    folder = tmp_path_factory.mktemp("cpu")
    dense = write_checkpoint(folder / "checkpoints/dense", "dense", 0.0)
    sparse = write_checkpoint(folder / "checkpoints/st3_90", "st3", 0.9)
    artifacts = folder / "artifacts"
    for checkpoint, backend, sizes in (
        (dense, "onnxruntime", (1,)),
        (dense, "onnxruntime", (4,)),
        (sparse, "onnxruntime", (1,)),
        (sparse, "native", (1, 4)),
    ):
        made = lower(checkpoint, artifacts / checkpoint.name, backend, sizes, 1, "native")
    compiled = [{"artifact": str(made), "fresh": False, "seconds": 12.3}]
    (artifacts / "compiled.json").write_text(json.dumps(compiled))
    info = load_checkpoint(sparse).info
    pictures = np.random.default_rng(0).integers(0, 256, (16, 1, 28, 28), np.uint8)
    labels = np.zeros(16, np.int64)
    write_evaluation_set(folder / "evaluation", "noise", pictures, labels, info.preprocessing, info.classes)
    return folder


def run(folder: Path, out: Path, *more: str) -> Result:
    arguments = [str(folder / "artifacts"), "--evaluation", str(folder / "evaluation"), "--out", str(out), *more]
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def finished(folder: Path) -> Result:
    """A whole run on a machine without OpenVINO."""
    without = folder / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = None\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "CONDITIONS", CONDITIONS)
        patch.setattr(command, "WARM_LIMIT_S", 0.2)
        patch.setattr(command, "TURN_S", 0.02)
        patch.setattr(command, "LAUNCHES", 1)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(without), os.environ.get("PYTHONPATH", "")]))
        result = run(
            folder, folder / "rows.json", "--rounds", "3", "--compiled", str(folder / "artifacts/compiled.json")
        )
    if result.exception is not None:
        raise result.exception
    return result


@pytest.fixture(scope="module")
def session(finished: Result, folder: Path) -> Measurements:
    return read_measurements(folder / "rows.jsonl")


def test_rows_have_exactly_their_keys(finished: Result, folder: Path) -> None:
    rows = json.loads((folder / "rows.json").read_text())
    assert all(list(row) == KEYS for row in rows)
    assert [(r["weights"], r["engine"], r["dtype"], r["batch_size"], r["threads"]) for r in rows] == [
        ("dense", "onnxruntime", "float32", 1, 1),
        ("st3_90", "native", "float32", 1, 1),
        ("st3_90", "onnxruntime", "float32", 1, 1),  # the proof that it gains nothing from zeros, once
        ("dense", "onnxruntime", "int8", 1, 1),
        ("dense", "onnxruntime", "float32", 4, 1),
        ("st3_90", "native", "float32", 4, 1),
        ("dense", "onnxruntime", "int8", 4, 1),
    ]
    for row in rows:
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p90"]
        assert row["ratio_to_onnxruntime"] > 0
        assert set(row["ratio_to_dense"]) == {"float32", "int8"}
        if (row["weights"], row["engine"]) == ("dense", "onnxruntime"):
            assert row["ratio_to_dense"][row["dtype"]] == 1
            assert (row["ratio_to_onnxruntime"] == 1) == (row["dtype"] == "float32")


def test_the_raw_record_says_all_that_was_measured(session: Measurements) -> None:
    names = {
        record.digest: f"{record.name} {engine_label(record.engine, record.target.dtype)}"
        for record in session.artifacts
    }
    found = {(names[m.artifact], m.metric, m.batch_size): m for m in session.measurements if not m.control}
    native = "st3_90/native-b1-4 native"
    assert found[native, "compile_time", 4].samples == ((12.3,),)
    assert found[native, "logits", 1].samples[0][0] < 1e-5
    assert found[native, "logits", 4].samples[0][0] < 1e-5
    assert found["dense/onnxruntime-b1 onnxruntime", "logits", 1].samples == ((0.0,),)
    assert 1e-4 < found["dense/onnxruntime-b1-int8 onnxruntime int8", "logits", 1].samples[0][0] < LIMITS["int8"]
    assert 2e7 < found[native, "memory_alone", 4].samples[0][0] < 1.2e8
    assert [len(turn) > 0 for turn in found[native, "latency", 1].samples] == [True] * 3
    assert {(p.operand, p.threads) for p in session.peaks} == {("registers", 1), ("L1", 1), ("L2", 1)}
    assert all(sample > 0.1 for peak in session.peaks for sample in peak.samples)
    (record,) = (record for record in session.artifacts if record.engine == "native")
    for batch_size in (1, 4):
        steps = [step for step in session.steps if step.batch_size == batch_size]
        assert sum(step.macs for step in steps) == batch_size * record.macs_nonzero
        assert all(len(step.samples_ms) == 20 and step.samples_ms[0] > 0 for step in steps)


def test_openvino_that_is_missing_is_said_in_one_clear_line(finished: Result, session: Measurements) -> None:
    for label in ("openvino", "openvino int8+bfloat16" if "bfloat16" in HERE else "openvino int8"):
        line = f"not measured: dense with {label}: openvino is not installed: pip install openvino"
        assert finished.stdout.count(line) == 1
    assert any(record.engine == "openvino" for record in session.artifacts)


def test_the_tables_show_every_engine_and_step(finished: Result) -> None:
    text = finished.stdout
    steps, _, engines = text.partition("how many times as fast as onnxruntime")
    assert "st3_90/native-b1-4, batch 1: steps" in steps
    assert "st3_90/native-b1-4, batch 4: steps" in steps
    assert "all steps" in steps
    assert "GFLOP/s" in steps
    assert "through the runtime alone" in steps
    for line in ("dense    onnxruntime", "dense    openvino", "st3_90   native", "st3_90   onnxruntime"):
        assert line in engines
    assert "12 s" in engines
    assert "dense    onnxruntime int8" in engines
    assert "the fastest other engine with the dense weights in each precision" in engines
    assert "are lower precisions than float32" in engines


def test_a_processor_without_bfloat16_is_said_and_a_quantised_file_is_made_once(
    folder: Path, finished: Result, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(yardsticks, "cpu_flags", lambda: frozenset({"avx2"}))
    made = {path: path.stat().st_mtime_ns for path in (folder / "artifacts/dense").glob("onnxruntime-b*-int8-*.onnx")}
    assert len(made) == 2
    plan, _ = planning.plan_cpu(folder / "artifacts", folder / "evaluation", Settings())
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "quantising" not in capsys.readouterr().err
    # of another artifact of that name
    first = min(made)
    first.rename(older := first.with_name("onnxruntime-b1-int8-000000000000.onnx"))
    planning.plan_cpu(folder / "artifacts", folder / "evaluation", Settings())
    assert (first.exists(), older.exists()) == (True, False)
    assert {(e.record.engine, e.record.target.dtype) for e in plan.entries if e.record.name.startswith("dense")} == {
        ("onnxruntime", "float32"),
        ("onnxruntime", "int8"),
        ("openvino", "float32"),
        ("openvino", "int8"),
    }
    (refusal,) = plan.refusals
    assert refusal.name == "dense with openvino bfloat16"
    assert refusal.reason.startswith("this processor has no instructions for it (amx_bf16, ")


def test_openvino_is_measured_in_bfloat16_and_int8(folder: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if "bfloat16" not in HERE:
        pytest.skip("this processor has no instructions for bfloat16")
    plan, references = planning.plan_cpu(folder / "artifacts", folder / "evaluation", Settings())
    entries = tuple(e for e in plan.entries if e.record.engine == "openvino" and e.record.target.batch_size == 1)
    plan = msgspec.structs.replace(plan, conditions=((plan.conditions[0][0], entries),))
    found = {m.artifact.partition(":")[0]: m for m in compare(plan, references, ProcessWorker, lambda text: None)}
    assert {name: m.failure for name, m in found.items()} == dict.fromkeys(
        ("openvino", "openvino-bfloat16", "openvino-int8+bfloat16")
    )
    differences = [m.samples[0][0] for m in found.values()]
    assert differences[0] < 1e-5
    assert 1e-4 < differences[1] < LIMITS["bfloat16"]
    assert 1e-4 < differences[2] < LIMITS["int8"]


def test_the_runtime_alone_needs_numpy_and_msgspec(folder: Path) -> None:
    alone = run_alone(str(folder / "artifacts/st3_90/native-b1-4"), threads=2)
    assert set(alone.packages) <= {"bench", "msgspec", "numpy", "runtime", "typing_extensions"}
    assert 2e7 < alone.peak_bytes < 1.2e8


def test_wrong_weights_and_missing_artifacts_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    assert "there is no native artifact of the weights 'u_90'; there are st3_90" in str(
        run(folder, out, "--steps", "u_90").exception
    )
    alone = tmp_path / "alone"
    (alone / "st3_90").mkdir(parents=True)
    (alone / "st3_90/native-b1").symlink_to(folder / "artifacts/st3_90/native-b1-4")
    arguments = [str(alone), "--evaluation", str(folder / "evaluation"), "--out", str(out)]
    refusal = CliRunner().invoke(main, arguments).exception
    assert isinstance(refusal, UserError)
    assert "no onnxruntime artifact of the weights 'dense' for batch 1, which is the reference" in str(refusal)
    assert not out.exists()


def test_seconds_are_those_of_real_compilations(tmp_path: Path) -> None:
    path = tmp_path / "compiled.json"
    made = [
        {"artifact": "a/b/dense/native-b1", "fresh": False, "seconds": 3.5},
        {"artifact": "a/b/u_90/native-b1", "fresh": True, "seconds": 0.1},
    ]
    path.write_text(json.dumps(made))
    assert compile_times([path]) == {"dense/native-b1": 3.5}
    assert compile_times([]) == {}
    for text in ("", "{", '[{"artifact": 1}]', "[1]"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"compiled.json is not what `st3 compile --json` prints"):
            compile_times([path])


def test_wrong_answers_fail_the_run(session: Measurements) -> None:
    refuse_wrong_answers(session)

    def with_difference(value: float) -> Measurements:
        wrong = (
            msgspec.structs.replace(m, samples=((value,),)) if m.metric == "logits" and m.samples else m
            for m in session.measurements
        )
        return msgspec.structs.replace(session, measurements=tuple(wrong))

    # the quantised files may differ by that
    with pytest.raises(UserError, match=r"^5 artifacts .* by 2.0e-04 of the largest \(allowed are 1e-04\)") as error:
        refuse_wrong_answers(with_difference(2e-4))
    assert "int8" not in str(error.value)
    with pytest.raises(UserError, match=r"onnxruntime int8 by 6.0e-01 of the largest \(allowed are 5e-01\)"):
        refuse_wrong_answers(with_difference(0.6))
