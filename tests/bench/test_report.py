"""The report's texts: complete, self-contained, and safe against names that are HTML."""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from bench_builders import build_session, record
from click.testing import CliRunner

from bench.measurement import Harness, Missing, Peak, Refusal, Surroundings
from bench.measurement_file import Writer
from bench.report.analysis import Row
from bench.report.command import link_between, report
from bench.report.write import write_report
from runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measurement import Measurements

EVIL = "<script>alert('x')</script>|"
REQUIRED = (
    "method", "pattern", "sparsity", "accuracy", "macs_dense", "macs_nonzero", "backend", "device", "batch_size",
    "threads", "latency_ms_p50", "latency_ms_p90", "speedup_vs_dense", "size_bytes",
)  # fmt: skip


@pytest.fixture
def session() -> Measurements:
    artifacts = [record("d", "dense", 0.0, "onnxruntime"), record("s", "st3", 0.9, EVIL)]
    built = build_session(artifacts, {"d": [[2.0]] * 6, "s": [[1.0]] * 6}, {"d": 0.9, "s": 0.89}, {"d": [[2.0]] * 6})
    return msgspec.structs.replace(
        built,
        refusals=(Refusal(name=EVIL, reason=EVIL),),
        missing=(Missing("energy", EVIL, "d"), Missing("energy", EVIL, "s"), Missing("memory", "gone", "s")),
        harness=(Harness(samples_us=(3.0, 4.0, 5.0), loop_us=(7.0,)),),
        peaks=(Peak("registers", 1, (120.0,)),),
        surroundings=(
            Surroundings(1, 1, 0, 2.0, (0.5,), 0.25, 0.0),
            Surroundings(1, 1, 1, 2.0, (0.5,), 0.75, None),
        ),
    )


@pytest.fixture
def out(session: Measurements, tmp_path: Path) -> Path:
    write_report(session, "m.jsonl", tmp_path)
    return tmp_path


def ours(out: Path) -> str:
    """The page without plotly.js."""
    page = (out / "report.html").read_text()
    return page.replace(page[page.index("<script>", page.index('id="data"')) : page.rindex("<script>")], "")


def test_rows_have_the_agreed_columns(out: Path) -> None:
    (first, _) = json.loads((out / "report.json").read_text())["rows"]
    assert set(REQUIRED) <= set(first)
    assert list(first) == [field.name for field in msgspec.structs.fields(Row)]


def test_every_text_has_the_same_rows(out: Path) -> None:
    rows = json.loads((out / "report.json").read_text())["rows"]
    with (out / "report.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["latency_ms_p50"] for line in lines] == [str(row["latency_ms_p50"]) for row in rows] == ["2.0", "1.0"]
    assert [line["base"] for line in lines] == ["true", "false"]
    assert list(lines[0]) == list(rows[0])
    markdown = (out / "report.md").read_text().split("## Results")[1].split("##")[0]
    assert [row.split(" | ")[6] for row in markdown.split("\n") if row.startswith(("| dense", "| st3"))] == ["1", "1"]
    assert [row.count("2.00\u00d7") for row in markdown.split("\n") if row.startswith("| st3")] == [1]
    assert len(re.findall(r"<tr data-row=", ours(out))) == 2


def test_the_page_is_self_contained_and_escaped(out: Path) -> None:
    page = ours(out)
    assert "alert(" in page
    assert EVIL not in page
    assert "Example CPU <b>" not in page
    # a script's data ends at the first end tag, whatever quotes are around it
    data = page.split('id="data">')[1].split("</script>")[0]
    assert EVIL in {row["backend"] for row in json.loads(data)["groups"][0]["rows"]}
    links = re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)([^"'>\s]+)""", page)
    assert set(links) == {"m.jsonl", "report.csv", "report.json", "report.md"}
    assert "@import" not in page
    assert "url(" not in page
    assert "Within 1 point of accuracy" in page
    for reason in ("the test says so", "prefers-color-scheme: dark"):
        assert reason in page


def test_the_page_says_how_far_it_can_be_trusted(out: Path) -> None:
    page = " ".join(ours(out).split())
    assert "Resolution (A/A)</dt><dd>0.0%" in page
    assert "The bench itself</dt><dd>4.0 µs" in page
    assert "takes 7.0 µs" in page
    assert "<dd>120.0 GFLOP/s</dd>" in page
    # the worse of the two launches
    assert "<dd>0.75 CPUs</dd>" in page
    # one reason for all artifacts is said once, one for some names them
    assert page.count("<li>energy:") == 1
    assert "<li>memory of st3-unstructured-0.9 with " in page


def test_markdown_has_no_markup_from_names(out: Path) -> None:
    text = (out / "report.md").read_text()
    assert "<script>" not in text
    header = next(line for line in text.split("\n") if line.startswith("| Method"))
    rows = [line for line in text.split("## Results")[1].split("\n") if line.startswith("| st3 ")]
    assert len(rows) == 1
    # an unescaped bar would make one more column
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == header.count("|")


def test_a_session_in_which_everything_failed_is_still_reported(session: Measurements, tmp_path: Path) -> None:
    failed = [msgspec.structs.replace(m, samples=(), failure="died") for m in session.measurements if not m.control]
    latency = tuple(m for m in failed if m.metric == "latency")
    write_report(msgspec.structs.replace(session, measurements=latency), "m.jsonl", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Nothing could be measured." in page
    assert page.count("died") == 2
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == []


def test_a_session_without_accuracy_says_what_is_gained_and_that_it_is_unknown(
    session: Measurements, tmp_path: Path
) -> None:
    bare = tuple(m for m in session.measurements if m.metric == "latency")
    write_report(msgspec.structs.replace(session, measurements=bare), "m.jsonl", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["accuracy"] for row in report["rows"]] == [None, None]
    (summary,) = report["summary"]
    assert summary["headline"] == "Up to 2.00\u00d7 as fast as the fastest dense network; no accuracy was measured."


def test_a_folder_of_measurements_is_no_file_of_them(tmp_path: Path) -> None:
    done = CliRunner().invoke(report, [str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert f"is a folder; name the file in it, for instance {tmp_path / 'measurements.jsonl'}" in str(done.exception)


def test_the_command_writes_beside_the_samples_and_links_them(session: Measurements, tmp_path: Path) -> None:
    path = tmp_path / "in here" / "m.jsonl"
    writer = Writer(path)
    writer.write([session.session, *session.artifacts, *session.measurements])
    writer.finish()
    done = CliRunner().invoke(report, [str(path)], catch_exceptions=False)
    assert "st3-unstructured-0.9 is 2.00\u00d7 as fast as the fastest dense network" in done.output
    assert '<a href="m.jsonl">' in (path.parent / "report.html").read_text()
    CliRunner().invoke(report, [str(path), "--out", str(tmp_path / "there")], catch_exceptions=False)
    assert '<a href="../in%20here/m.jsonl">' in (tmp_path / "there/report.html").read_text()
    assert link_between(tmp_path, path) == "in%20here/m.jsonl"
    printed = CliRunner().invoke(report, [str(path), "--json"], catch_exceptions=False)
    assert printed.output == (path.parent / "report.json").read_text()
