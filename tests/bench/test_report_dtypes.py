"""A report of several precisions: each row says its own, and no speed-up passes over the difference in silence."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from bench_builders import build_session, record
from rich.console import Console

from bench.measure.once import _reference
from bench.measurement import ArtifactRecord, Measurements, Peak, Step
from bench.report.analysis import analyse
from bench.report.compare import compare
from bench.report.compare_report import write_comparison
from bench.report.document import document
from bench.report.layer_times import breakdowns
from bench.report.precision import caveat_of
from bench.report.summary import groups
from bench.report.terminal import show
from bench.report.write import write_report

DENSE, SPARSE = record("d", "dense", 0.0, "native"), record("s", "st3", 0.9, "native")
DENSE_16 = record("d16", "dense", 0.0, "native", dtype="float16")
SPARSE_16 = record("s16", "st3", 0.9, "native", dtype="float16")
INT8 = msgspec.structs.replace(record("q", "onnx", 0.0, "openvino", dtype="int8"), name="q.onnx", yardstick=True)


def session(latencies_ms: dict[str, float], *artifacts: ArtifactRecord) -> Measurements:
    rounds = {record.digest: [[latencies_ms[record.digest]]] * 6 for record in artifacts}
    accuracy = {record.digest: 0.9 for record in artifacts}
    first = artifacts[0].digest
    return build_session(artifacts, rounds, accuracy, {first: rounds[first]})


ALL = session({"d": 8.0, "s": 2.0, "d16": 4.0, "s16": 1.0, "q": 0.5}, DENSE, SPARSE, DENSE_16, SPARSE_16, INT8)


def test_a_base_of_a_lower_precision_is_said() -> None:
    (group,) = groups(analyse(ALL).rows)
    assert {row.artifact: row.dtype for row in group.rows if row.base} == {"d16": "float16"}
    assert group.caveat == (
        "The base, dense with native in float16, is of a lower precision than the rows in float32. "
        "Rows in int8 are of a lower precision than the base, dense with native in float16: part of their speed-up "
        "is the precision's. "
        "The yardstick q.onnx with openvino int8 is 2.00× as fast as the fastest sparse artifact, "  # noqa: RUF001
        "st3-unstructured-0.9 with native float16."
    )
    assert document(ALL, "m.jsonl").summary[0].caveat == group.caveat


def test_a_sparse_row_of_a_lower_precision_than_the_base_is_said() -> None:
    (group,) = groups(analyse(session({"d": 8.0, "s16": 1.0}, DENSE, SPARSE_16)).rows)
    assert group.caveat.startswith("Rows in float16 are of a lower precision than the base, dense with native in flo")
    assert "st3 unstructured at sparsity 0.9 with native float16" in group.picks[0].sentence


def test_the_gain_beside_another_engine_is_said_where_the_base_is_ours() -> None:
    torch, ort = record("i", "dense", 0.0, "inductor"), record("o", "dense", 0.0, "onnxruntime")
    latencies = {"d": 4.0, "s": 2.0, "i": 9.0, "o": 6.0}
    (group,) = groups(analyse(session(latencies, DENSE, SPARSE, torch, ort)).rows)
    assert group.headline.startswith("2.00\u00d7 as fast")
    assert group.caveat == (
        "Beside the fastest dense network of another engine (onnxruntime in float32) it is 3.00\u00d7 as fast."
    )
    # it is the base itself; or none is beside ours; or nothing is faster
    for others, artifacts in (
        ({"o": 3.0}, (DENSE, SPARSE, ort)),
        ({}, (DENSE, SPARSE)),
        ({"s": 5.0}, (DENSE, SPARSE, ort)),
    ):
        (group,) = groups(analyse(session(latencies | others, *artifacts)).rows)
        assert group.caveat == "", others
    # a yardstick that the run cannot tell from the best sparse artifact
    near = msgspec.structs.replace(INT8, target=DENSE.target)
    rows = analyse(session({"d": 4.0, "s": 2.0, "q": 2.01}, DENSE, SPARSE, near)).rows
    for resolution, said in ((0.0, True), (0.01, False)):
        (group,) = groups([msgspec.structs.replace(row, resolution=resolution) for row in rows])
        assert ("another engine" in group.caveat) == said


def test_where_all_is_float32_nothing_is_said() -> None:
    plain = session({"d": 8.0, "s": 2.0}, DENSE, SPARSE)
    assert caveat_of(analyse(plain).rows) == ""
    # a yardstick that is not faster than ours, or not by more than the run can tell apart
    slow = msgspec.structs.replace(INT8, target=DENSE.target)
    for latency_ms in (3.0, 1.9999):
        rows = analyse(session({"d": 8.0, "s": 2.0, "q": latency_ms}, DENSE, SPARSE, slow)).rows
        rows = tuple(msgspec.structs.replace(row, resolution=0.01) for row in rows)
        assert caveat_of(rows) == "", latency_ms


def test_every_text_says_the_dtype_of_each_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(ALL, "m.jsonl", tmp_path)
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {row["artifact"]: row["dtype"] for row in rows} == {
        "d": "float32", "s": "float32", "d16": "float16", "s16": "float16", "q": "int8",
    }  # fmt: skip
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert "| native | float16 |" in markdown
    assert "| native | float32 |" in markdown
    assert '<button type="button">Dtype</button>' in page
    for text in (markdown, page):
        assert "The yardstick q.onnx with openvino int8 is 2.00" in text
    show(Console(width=160, soft_wrap=True), analyse(ALL), groups(analyse(ALL).rows))
    printed = capsys.readouterr().out
    assert "st3-unstructured-0.9 in float16 is 4.00" in printed
    for name in ("native float32", "native float16", "openvino int8"):
        assert name in printed
    assert "The base, dense with native in float16, is of a lower precision than the rows in float32." in printed


def test_a_session_in_float32_has_no_such_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = session({"d": 8.0, "s": 2.0}, DENSE, SPARSE)
    write_report(plain, "m.jsonl", tmp_path)
    assert ">Dtype<" not in (tmp_path / "report.html").read_text()
    show(Console(width=160, soft_wrap=True), analyse(plain), groups(analyse(plain).rows))
    assert "float32" not in capsys.readouterr().out


def test_a_failure_says_which_of_an_engines_precisions_it_was() -> None:
    broken = [m if m.artifact != "d16" else msgspec.structs.replace(m, failure="no memory") for m in ALL.measurements]
    (failure, *_) = analyse(msgspec.structs.replace(ALL, measurements=tuple(broken))).failures
    assert (failure.backend, failure.dtype) == ("native", "float16")


def test_the_processors_peak_is_float32s() -> None:
    peaks = (Peak("registers", 1, (100.0,)),)
    rows = {row.artifact: row for row in analyse(msgspec.structs.replace(ALL, peaks=peaks)).rows}
    assert rows["d"].share_of_peak is not None
    assert rows["d16"].share_of_peak is None
    assert rows["q"].share_of_peak is None


def test_layers_stand_beside_those_of_the_same_precision() -> None:
    steps = tuple(Step(name, 1, 1, "fc", "fc", "kernel", 1, (1.0,)) for name in ("d", "s", "d16", "s16"))
    whole = msgspec.structs.replace(ALL, steps=steps)
    found = {made.artifact: made.dense_artifact for made in breakdowns(whole, analyse(whole).rows)}
    assert found == {"s": "d", "s16": "d16"}


def test_a_comparison_keeps_precisions_apart(tmp_path: Path) -> None:
    other = session({"s": 2.0, "s16": 1.5, "d": 8.0}, DENSE, SPARSE, SPARSE_16)
    comparison = compare(ALL, other, ("a", "b"))
    ratios = {(pair.checkpoint, pair.dtype): pair.ratio for pair in comparison.pairs}
    assert ratios["st3-unstructured-0.9", "float16"] == pytest.approx(1 / 1.5)
    assert ratios["st3-unstructured-0.9", "float32"] == pytest.approx(1)
    assert {alone.dtype for alone in comparison.unpaired} == {"float16", "int8"}
    write_comparison(comparison, tmp_path, ("a", "b"))
    assert "native float16" in (tmp_path / "compare.md").read_text()
    assert ">native float16</td>" in (tmp_path / "compare.html").read_text()


def test_answers_are_held_against_the_dense_network_in_float32() -> None:
    assert _reference([DENSE_16, SPARSE, DENSE], "tiny") == DENSE
    assert _reference([DENSE_16, SPARSE], "tiny") == DENSE_16
    assert _reference([SPARSE], "tiny") is None
