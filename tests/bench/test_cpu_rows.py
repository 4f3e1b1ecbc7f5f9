"""The arithmetic of the CPU engine's benchmark: ratios, the check of the answers, useful GFLOP/s, who takes part."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from bench_builders import build_session, record
from rich.console import Console

from bench.cpu.logits import relative_difference
from bench.cpu.plan import takes_part, weights_of
from bench.cpu.rows import make_rows
from bench.cpu.show import engines_table, failure_lines, precisions_table
from bench.cpu.step_table import gflops_useful, peak_lines
from bench.cpu.yardsticks import as_openvino
from bench.machine.peaks import peak_of
from bench.measure.participant import Entry
from bench.measure.process import WorkerError
from bench.measurement import ArtifactRecord, Measurements, Peak, Refusal, Step
from bench.naming import engine_label
from runtime.errors import UserError


def artifact(weights: str, engine: str, dtype: str = "float32") -> ArtifactRecord:
    kind = "dense" if weights == "dense" else "st3"
    made = record(f"{weights}/{engine_label(engine, dtype)}-b1", kind, 0.9, engine, dtype=dtype)
    assert weights_of(made) == weights
    return made


DENSE, DENSE_NATIVE = artifact("dense", "onnxruntime"), artifact("dense", "native")
SPARSE = artifact("st3_90", "native")


def session() -> Measurements:
    """Three rounds on a machine that becomes slower; a round without sparse samples is a round less for it."""
    rounds = {
        DENSE.digest: [[10.0, 10.0], [20.0, 20.0], [30.0, 36.0]],
        DENSE_NATIVE.digest: [[8.0], [25.0], [30.0]],
        SPARSE.digest: [[2.0, 2.2, 2.1], [5.0]],
    }
    control = {DENSE_NATIVE.digest: [[1.0], [1.0], [1.0]]}
    return build_session([DENSE, DENSE_NATIVE, SPARSE], rounds, {}, control)


def test_a_ratio_is_the_median_over_rounds_of_the_ratio_of_medians() -> None:
    rows = {(row.weights, row.engine): row for row in make_rows(session())}
    assert len(rows) == 3
    assert rows["dense", "onnxruntime"].ratio_to_onnxruntime == 1
    # 10/8, 20/25, 33/30; the control, ten times as fast, is no row
    assert rows["dense", "native"].ratio_to_onnxruntime == pytest.approx(1.1)
    # 10/2.1 and 20/5: between two the median of logarithms is the geometric mean
    assert rows["st3_90", "native"].ratio_to_onnxruntime == pytest.approx((10 / 2.1 * 4) ** 0.5)
    assert rows["st3_90", "native"].latency_ms_p50 == pytest.approx(2.15)
    assert rows["st3_90", "native"].latency_ms_p90 == pytest.approx(2.2 + 0.7 * (5.0 - 2.2))


def test_without_dense_onnx_runtime_there_is_no_ratio() -> None:
    whole = session()
    broken = tuple(
        msgspec.structs.replace(m, samples=(), failure="out of memory") if m.artifact == DENSE.digest else m
        for m in whole.measurements
    )
    with pytest.raises(UserError, match=r"batch 1, threads 1: onnxruntime with the dense weights failed: out of mem"):
        make_rows(msgspec.structs.replace(whole, measurements=broken))
    without = tuple(m for m in whole.measurements if m.artifact != DENSE.digest)
    with pytest.raises(UserError, match="it was not measured"):
        make_rows(msgspec.structs.replace(whole, measurements=without))


def test_what_was_not_measured_is_said_once() -> None:
    whole = session()
    failed = [msgspec.structs.replace(m, samples=(), failure="no memory") for m in whole.measurements[:1]]
    refusals = (Refusal(name="u_90/native-b1", reason="it is damaged"),)
    lines = failure_lines(msgspec.structs.replace(whole, measurements=(*failed, *failed), refusals=refusals))
    assert lines == [
        "not measured: u_90/native-b1: it is damaged",
        "not measured: dense with onnxruntime: no memory",
    ]


def test_difference_is_relative_to_the_largest_answer() -> None:
    expected = np.array([[1.0, -4.0], [0.0, 2.0]])
    assert relative_difference(expected, expected) == 0
    assert relative_difference(expected + np.array([[0, 0], [0.002, 0]]), expected) == pytest.approx(0.0005)
    for wrong in (np.array([[1.0, np.nan], [0.0, 2.0]]), np.array([[1.0, np.inf], [0.0, 2.0]]), expected[:1]):
        with pytest.raises(WorkerError, match="not finite"):
            relative_difference(wrong, expected)


def test_useful_operations_are_two_per_mac_and_a_peak_is_what_is_seldom_passed() -> None:
    step = Step("a", 1, 1, "conv", "conv", "offset_stream", macs=5_000_000, samples_ms=(2.0, 0.5, 1.0))
    assert gflops_useful(step) == pytest.approx(10.0)
    peaks = (Peak("registers", 1, (10.0, 100.0)), Peak("registers", 1, (110.0,)), Peak("L1", 2, (70.0,)))
    whole = msgspec.structs.replace(session(), peaks=peaks)
    assert peak_of(peaks, "registers", 1) == pytest.approx(108)
    assert peak_of(peaks, "L2", 1) is None
    assert list(peak_lines(whole)) == [
        "multiply-adds, 1 thread: GFLOP/s 108.0 from registers",
        "multiply-adds, 2 threads: GFLOP/s 70.0 from L1",
    ]
    half = msgspec.structs.replace(peaks[0], dtype="float16", samples=(200.0,))
    assert list(peak_lines(msgspec.structs.replace(whole, peaks=(half, *peaks))))[-1] == (
        "multiply-adds in float16, 1 thread: GFLOP/s 200.0 from registers"
    )


def test_dense_engines_run_the_dense_weights_and_onnx_runtime_the_proof_once() -> None:
    conditions = ((1, 1), (1, 2), (16, 2))

    def parts(weights: str, engine: str) -> list[bool]:
        return [takes_part(Entry("", artifact(weights, engine)), *condition) for condition in conditions]

    assert parts("u_90", "native") == [True] * 3
    assert parts("dense", "inductor") == [True] * 3
    assert parts("st3_90", "onnxruntime") == [True, False, False]
    assert parts("st3_80", "onnxruntime") == [False] * 3
    yardstick = as_openvino(Entry("folder", DENSE))
    assert (yardstick.folder, yardstick.record.engine) == ("folder", "openvino")
    assert yardstick.record.digest != DENSE.digest
    assert not takes_part(as_openvino(Entry("", artifact("st3_90", "onnxruntime"))), 1, 1)


def several_precisions() -> Measurements:
    """Native in two precisions; OpenVINO is faster than ONNX Runtime, and faster still in bfloat16 and in int8."""
    timed = [
        (artifact("dense", "onnxruntime", "int8"), 6.0),
        (DENSE, 12.0),
        (SPARSE, 3.0),
        (artifact("st3_90", "native", "float16"), 2.0),
        (artifact("dense", "openvino"), 10.0),
        (artifact("dense", "openvino", "bfloat16"), 4.0),
        (artifact("dense", "openvino", "int8+bfloat16"), 1.0),
    ]
    return build_session([made for made, _ in timed], {made.digest: [[ms]] * 3 for made, ms in timed}, {})


def test_native_is_held_against_the_fastest_dense_engine_of_each_precision() -> None:
    rows = {(row.weights, row.engine, row.dtype): row for row in make_rows(several_precisions())}
    assert len(rows) == 7
    sparse, half = rows["st3_90", "native", "float32"], rows["st3_90", "native", "float16"]
    assert sparse.ratio_to_dense == pytest.approx({"float32": 10 / 3, "bfloat16": 4 / 3, "int8": 1 / 3})
    assert half.ratio_to_dense == pytest.approx({"float32": 5, "bfloat16": 2, "int8": 0.5})
    # ONNX Runtime in float32, whatever else it ran
    assert (sparse.ratio_to_onnxruntime, half.ratio_to_onnxruntime) == pytest.approx((4, 6))


def test_the_tables_tell_precisions_apart() -> None:
    whole = several_precisions()
    rows = make_rows(whole)
    against = precisions_table(rows)
    assert against is not None
    console = Console(width=200)
    with console.capture() as capture:
        console.print(engines_table(whole, rows), against)
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    for start in ("dense onnxruntime int8 ", "dense openvino bfloat16 ", "dense openvino int8+bfloat16 "):
        assert [line.startswith(start) for line in lines].count(True) == 1
    assert "st3_90 native 3.33× 1.33× 0.33×" in lines  # noqa: RUF001
    assert "st3_90 native float16 5.00× 2.00× 0.50×" in lines  # noqa: RUF001
    plain = session()
    assert precisions_table(make_rows(plain)) is None
