"""A whole session with small real artifacts, through the two commands."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bench_builders import invoke, make_artifact, make_three
from click.testing import CliRunner

from bench.environment import describe, usable_cpus
from bench.measure.command import bench, settings_for
from bench.measure.session import plan_session
from bench.measurement import Settings
from bench.measurement_file import read_measurements
from bench.report.command import report
from runtime.errors import UserError

if TYPE_CHECKING:
    pass

pytest.importorskip("onnxruntime", reason="the small artifacts run in ONNX Runtime")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's peak takes seconds; only the session of ``measured``, which is set up before, has it."""
    monkeypatch.setenv("CXX", "no-compiler")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, evaluation: Path) -> Path:
    """A finished session of three good artifacts, one whose model is broken, and one folder that is no artifact."""
    folder = tmp_path_factory.mktemp("session")
    make_three(folder / "artifacts", batch_size=32)
    make_artifact(folder / "artifacts/gmp/onnxruntime-b32", "gmp", 0.9, 32, broken="no model")
    (folder / "artifacts/foreign").mkdir()
    (folder / "artifacts/foreign/manifest.json").write_text('{"schema_version": 99}')
    out = folder / "measurements.jsonl"
    options = ("--threads", 1, "--rounds", 6, "--launches", 3, "--out", out)
    text = invoke(bench, folder / "artifacts", "--evaluation", evaluation, *options)
    assert "st3-unstructured-0.95" in text
    assert text.rstrip().endswith(f"measurements: {out}")
    return out


def test_a_session_from_artifacts_to_rows(measured: Path) -> None:
    session = read_measurements(measured)
    assert session.end is not None
    assert session.end.complete
    document = json.loads(invoke(report, measured, "--json"))
    rows = {row["checkpoint"]: row for row in document["rows"]}
    assert set(rows) == {"dense", "st3-unstructured-0.9", "st3-unstructured-0.95"}
    assert rows["dense"]["base"] is True
    assert rows["dense"]["speedup_vs_dense"] == 1
    # 500 times fewer operations: this must be seen through any noise
    assert rows["st3-unstructured-0.95"]["speedup_low"] > 1.2
    assert rows["st3-unstructured-0.95"]["accuracy"] == 0.9
    assert rows["dense"]["accuracy"] < 0.9
    assert rows["dense"]["peak_memory_bytes"] > rows["dense"]["size_bytes"] > 0
    assert rows["dense"]["resolution"] is not None
    reasons = {failure["name"]: failure["reason"] for failure in document["failures"]}
    assert "schema 99" in reasons["artifacts/foreign"]
    assert "payload/model.onnx is no ONNX file" in reasons["gmp-unstructured-0.9"]
    if sys.platform == "linux":
        assert {m.cpus for m in session.measurements if m.failure is None} == {usable_cpus()[:1]}


def test_the_files_agree_row_by_row(measured: Path, tmp_path: Path) -> None:
    text = invoke(report, measured, "--out", tmp_path)
    assert text.rstrip().endswith(f"report: {tmp_path / 'report.html'} (also .md, .csv, .json)")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"report.{s}" for s in ("csv", "html", "json", "md")]
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    with (tmp_path / "report.csv").open() as stream:
        for row, read in zip(rows, csv.DictReader(stream), strict=True):
            assert list(row) == list(read)
            for key, value in row.items():
                assert read[key] == (
                    "" if value is None else str(value).lower() if value in (True, False) else str(value)
                ), key
    results = (tmp_path / "report.md").read_text().split("## Results")[1].split("##")[0]
    lines = [line for line in results.split("\n") if line.startswith("|")]
    names = [name.strip() for name in lines[0].strip("|").split("|")]
    assert len(lines) == 2 + len(rows)
    for row, line in zip(rows, lines[2:], strict=True):
        cells = dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        for name, key in (
            ("Method", "method"),
            ("Backend", "backend"),
            ("Batch", "batch_size"),
            ("Threads", "threads"),
        ):
            assert cells[name] == str(row[key])
        for name, key, half_a_digit in (("Accuracy", "accuracy", 5e-5), ("p50, ms", "latency_ms_p50", 5e-2)):
            assert abs(float(cells[name]) - row[key]) <= half_a_digit


def test_a_session_names_no_host_no_user_and_no_path(measured: Path) -> None:
    text = measured.read_text()
    assert str(measured.parent) not in text
    assert str(Path.home()) + "/" not in text
    node = os.uname().nodename
    assert f'"{node}"' not in text
    environment = describe()
    assert environment.machine.usable_cpus == len(usable_cpus())
    assert environment.packages["numpy"]


def test_an_artifact_given_twice_is_measured_once(measured: Path, evaluation: Path) -> None:
    folder = measured.parent / "artifacts"
    plan = plan_session([folder, folder / "dense"], evaluation, [1], Settings())
    assert len(plan.entries) == 4


@pytest.mark.parametrize(
    ("threads", "message"), [([0], "from 1 to"), ([100_000], "more threads than CPUs"), ([], "from 1 to")]
)
def test_impossible_thread_counts_are_refused(
    threads: list[int], message: str, tmp_path: Path, evaluation: Path
) -> None:
    with pytest.raises(UserError, match=message):
        plan_session([tmp_path], evaluation, threads, Settings())


def test_what_cannot_be_measured_is_refused_before_it_begins(tmp_path: Path, evaluation: Path) -> None:
    with pytest.raises(UserError, match=r"no artifact can be measured under .* no manifest.json was found"):
        plan_session([tmp_path], evaluation, [1], Settings())
    with pytest.raises(UserError, match="is no folder"):
        plan_session([tmp_path / "nowhere"], evaluation, [1], Settings())
    with pytest.raises(UserError, match="holds no evaluation set"):
        plan_session([tmp_path], tmp_path, [1], Settings())


def test_what_is_no_session_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")
    for out, message in (
        (tmp_path, f"is a folder; name a file in it, for instance {tmp_path / 'measurements.jsonl'}"),
        (tmp_path / "model.onnx", "is there and is no finished session"),
    ):
        result = CliRunner().invoke(bench, ["a", "--evaluation", "b", "--out", str(out)])
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"


def test_numbers_of_threads_may_have_commas(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--evaluation", "b", "--out", str(tmp_path / "m.jsonl"), "--threads"]
    result = CliRunner().invoke(bench, [*arguments, "1,5000"])
    assert "--threads 1 5000: this process may use" in str(result.exception)
    assert "is neither a number nor numbers with commas" in CliRunner().invoke(bench, [*arguments, "1;2"]).output


def test_options_become_rounds() -> None:
    assert settings_for(2.0, None, 0).rounds == 50
    assert settings_for(0.01, None, 0).rounds == 5
    assert settings_for(2.0, 7, 3).rounds == 7
    with pytest.raises(UserError, match="--seconds must be positive"):
        settings_for(0.0, None, 0)
    with pytest.raises(UserError, match="--rounds must be 1 or more"):
        settings_for(2.0, 0, 0)
