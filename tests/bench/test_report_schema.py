"""The published schemas: what is committed is what the structs say, and what the bench writes passes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_builders import build_session, record

import bench
from bench.measurement import Measurements
from bench.measurement_file import read_measurements
from bench.report.compare import compare
from bench.report.document import document
from bench.report.write import encode
from bench.schemas import FOLDER, schemas, write

# the folders whose files are sessions of the bench
RESULTS = sorted((Path(bench.__file__).parent / "results").glob("bench*/*.jsonl"))


def validator(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="no jsonschema to check a document with")
    return jsonschema.Draft202012Validator(json.loads((FOLDER / name).read_text()))


def small() -> Measurements:
    artifacts = [record("d", "dense", 0.0, "native"), record("s", "st3", 0.9, "native")]
    return build_session(artifacts, {"d": [[2.0]] * 6, "s": [[1.0]] * 6}, {"d": 0.9, "s": 0.89}, {"d": [[2.0]] * 6})


def test_the_committed_schemas_are_those_of_the_structs() -> None:
    committed = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert committed == schemas(), "run `python -m bench.schemas` and commit what it writes"


def test_there_are_sessions() -> None:
    assert RESULTS


def test_they_are_written_as_they_are_committed(tmp_path: Path) -> None:
    assert {path.name for path in write(tmp_path)} == set(schemas())
    assert json.loads((tmp_path / "report.schema.json").read_text()) == schemas()["report.schema.json"]


@pytest.mark.parametrize("name", sorted(schemas()))
def test_each_is_a_schema(name: str) -> None:
    checker = validator(name)
    checker.check_schema(checker.schema)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_committed_sessions_and_their_reports_pass(path: Path) -> None:
    line = validator("measurement.schema.json")
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        record = json.loads(text)
        if record["type"] == "measurement":  # every sample is a number, and checking all of them takes half a minute
            record["samples"] = [turn[:2] for turn in record["samples"][:3]]
        assert not list(line.iter_errors(record)), f"line {number}"
    report = json.loads(encode(document(read_measurements(path), path.name)))
    assert not list(validator("report.schema.json").iter_errors(report))


def test_a_comparison_passes() -> None:
    made = json.loads(encode(compare(small(), small(), ("a", "b"))))
    assert not list(validator("comparison.schema.json").iter_errors(made))


@pytest.mark.parametrize("change", ["a field more", "a field less", "another kind"])
def test_a_broken_report_does_not_pass(change: str) -> None:
    report = json.loads(encode(document(small(), "m.jsonl")))
    row = report["rows"][0]
    if change == "a field more":
        row["colour"] = "red"
    elif change == "a field less":
        del row["threads"]
    else:
        row["latency_ms_p50"] = "fast"
    assert list(validator("report.schema.json").iter_errors(report))


def test_a_foreign_line_does_not_pass() -> None:
    line = validator("measurement.schema.json")
    assert list(line.iter_errors({"type": "measurement", "artifact": "d"}))
    assert list(line.iter_errors({"type": "something"}))
