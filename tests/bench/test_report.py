"""The report's texts: complete, self-contained, and safe against names that are HTML."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from bench_builders import build_session, record

from bench.analysis import Row
from bench.measurement import Refusal
from bench.report import write_report

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measurement import Measurements

EVIL = "<script>alert('x')</script>|"
REQUIRED = (
    "method", "pattern", "sparsity", "accuracy", "macs_dense", "macs_nonzero", "backend", "batch_size", "threads",
    "latency_ms_p50", "latency_ms_p90", "speedup_vs_dense", "size_bytes",
)  # fmt: skip


@pytest.fixture
def session() -> Measurements:
    artifacts = [record("d", "dense", 0.0, "onnxruntime"), record("s", "st3", 0.9, EVIL)]
    built = build_session(artifacts, {"d": [[2.0]] * 6, "s": [[1.0]] * 6}, {"d": 0.9, "s": 0.89}, {"d": [[2.0]] * 6})
    return msgspec.structs.replace(built, refusals=(Refusal(name=EVIL, reason=EVIL),))


def test_rows_have_the_agreed_columns(session: Measurements, tmp_path: Path) -> None:
    write_report(session, "m.jsonl", tmp_path)
    (first, _) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert set(REQUIRED) <= set(first)
    assert list(first) == [field.name for field in msgspec.structs.fields(Row)]


def test_the_page_is_self_contained_and_escaped(session: Measurements, tmp_path: Path) -> None:
    write_report(session, "m.jsonl", tmp_path)
    page = (tmp_path / "report.html").read_text()
    ours = page.replace(page[page.index("<script>", page.index('id="data"')) : page.rindex("<script>")], "")
    assert "alert(" in ours
    assert EVIL not in ours
    assert "Example CPU <b>" not in ours
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:)[^"'>\s]+""", ours)
    assert "@import" not in ours
    assert "url(" not in ours
    assert "Within 1 point of dense (0.9000)" in ours
    for reason in ("the test says so", "m.jsonl", "prefers-color-scheme: dark"):
        assert reason in ours


def test_markdown_has_no_markup_from_names(session: Measurements, tmp_path: Path) -> None:
    write_report(session, "m.jsonl", tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "<script>" not in text
    rows = [line for line in text.split("\n") if line.startswith("| st3")]
    assert len(rows) == 1
    # an unescaped bar would make one more column
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 18


def test_a_session_in_which_everything_failed_is_still_reported(session: Measurements, tmp_path: Path) -> None:
    failed = [msgspec.structs.replace(m, samples=(), failure="died") for m in session.measurements if not m.control]
    latency = tuple(m for m in failed if m.metric == "latency")
    write_report(msgspec.structs.replace(session, measurements=latency), "m.jsonl", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Nothing could be measured." in page
    assert page.count("died") == 2
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == []


def test_a_session_without_accuracy_is_reported_without_words(session: Measurements, tmp_path: Path) -> None:
    bare = tuple(m for m in session.measurements if m.metric == "latency")
    write_report(msgspec.structs.replace(session, measurements=bare), "m.jsonl", tmp_path)
    assert [row["accuracy"] for row in json.loads((tmp_path / "report.json").read_text())["rows"]] == [None, None]
