"""Writes a session's report: one self-contained HTML page, and the same rows as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import msgspec

from bench.naming import checkpoint_name
from bench.report.analysis import Row, analyse
from bench.report.columns import columns, topics
from bench.report.document import Document, document
from bench.report.page import assets, render, write_texts
from bench.report.summary import groups, points, title

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.measurement import Measurements
    from bench.report.analysis import Analysis

COLUMNS = tuple(field.name for field in msgspec.structs.fields(Row))
_SCRIPTS = ("pareto", "speedup", "layers", "filters", "report")


def write_report(session: Measurements, source: str, out: Path, link: str = "") -> Analysis:
    """Write ``report.html``, ``.md``, ``.csv`` and ``.json`` into ``out``, each whole or not at all.

    Args:
        session: what was measured.
        source: the measurement file's name, by which the report refers to the raw samples.
        out: the folder; it is made if it is missing.
        link: the way from ``out`` to the measurement file, ``source`` itself if it is not given.
    """
    analysis = analyse(session)
    report = document(session, source, analysis)
    view = _view(session, report) | {"link": link or source}
    texts = {
        "report.json": encode(report),
        "report.csv": to_csv(report.rows),
        "report.md": render("report.md.j2", view),
        "report.html": render("report.html.j2", view | assets(_data(report), _SCRIPTS)),
    }
    write_texts(texts, out)
    return analysis


def encode(value: msgspec.Struct) -> str:
    """A report as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def to_csv(rows: Sequence[msgspec.Struct], columns: Sequence[str] = COLUMNS) -> str:
    """Every column of every row, numbers in full; an unknown value is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_field(getattr(row, column)) for column in columns])
    return text.getvalue()


def _field(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _view(session: Measurements, report: Document) -> dict[str, Any]:
    """What the templates speak of."""
    measured = {row.artifact for row in report.rows}
    shown = columns(report.rows)
    return {
        "report": report,
        "artifacts": [(checkpoint_name(r), r) for r in session.artifacts if r.digest in measured],
        "columns": shown,
        "topics": topics(shown),
        "environment": report.session.environment,
        "groups": groups(report.rows),
        "points": points,
        "recipes": list(dict.fromkeys(row.recipe for row in report.rows)),
        "title": title,
    }


def _data(report: Document) -> dict[str, object]:
    """What the charts draw."""
    comparable = [{"headline": g.headline, "rows": g.rows, "resolution": g.resolution} for g in groups(report.rows)]
    best = [[choice.best.artifact for choice in g.picks if choice.best] for g in groups(report.rows)]
    return {"groups": comparable, "best": best, "limits": report.limits, "layers": report.layers}
