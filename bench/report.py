"""Writes a session's report: one self-contained HTML page, and the same rows as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench import numbers
from bench.analysis import Analysis, Row, analyse
from bench.measurement import Measurements, checkpoint_name
from bench.summary import groups, points, title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.summary import Group

SCHEMA_VERSION = 1
COLUMNS = tuple(field.name for field in msgspec.structs.fields(Row))


def write_report(session: Measurements, source: str, out: Path) -> Analysis:
    """Write ``report.html``, ``.md``, ``.csv`` and ``.json`` into ``out``, each whole or not at all.

    Args:
        session: what was measured.
        source: the measurement file's name, by which the report refers to the raw samples.
        out: the folder; it is made if it is missing.
    """
    analysis = analyse(session)
    out.mkdir(parents=True, exist_ok=True)
    view = _view(session, analysis, source)
    texts = {
        "report.json": to_json(session, analysis, source),
        "report.csv": to_csv(analysis.rows),
        "report.md": _render("report.md.j2", view),
        "report.html": _render("report.html.j2", view | _assets(view["groups"])),
    }
    for name, text in texts.items():
        part = out / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(out / name)
    return analysis


def to_json(session: Measurements, analysis: Analysis, source: str) -> str:
    """Rows, failures, warnings, the summary in words, and the session that they come from."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "summary": [
            {"recipe": g.recipe, "batch_size": g.batch_size, "threads": g.threads, "sentences": _sentences(g)}
            for g in groups(analysis.rows)
        ],
        "rows": analysis.rows,
        "failures": analysis.failures,
        "warnings": analysis.warnings,
        "session": session.session,
        "end": session.end,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """Every column of every row, numbers in full; an unknown value is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_field(getattr(row, column)) for column in COLUMNS])
    return text.getvalue()


def _field(value: str | float | bool | None) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentences(group: Group) -> list[str]:
    return [choice.sentence for choice in group.picks]


def _view(session: Measurements, analysis: Analysis, source: str) -> dict[str, Any]:
    """What the templates speak of."""
    measured = {row.artifact for row in analysis.rows}
    return {
        "analysis": analysis,
        "artifacts": [(checkpoint_name(r), r) for r in session.artifacts if r.digest in measured],
        "end": session.end,
        "environment": session.session.environment,
        "groups": groups(analysis.rows),
        "numbers": numbers,
        "points": points,
        "session": session.session,
        "source": source,
        "title": title,
    }


def _assets(comparable: Sequence[Group]) -> dict[str, str]:
    """What makes the page self-contained: style, script, plotly.js and the rows that the charts draw."""
    from plotly.offline import get_plotlyjs

    templates = Path(__file__).parent / "templates"
    rows = msgspec.json.encode(
        [{"headline": g.headline, "rows": g.rows, "resolution": g.resolution} for g in comparable]
    )
    # inside <script> only "<" can end the element early, and JSON has another way to write it
    data = rows.decode().replace("<", "\\u003c")
    return {
        "data": data,
        "plotly": get_plotlyjs(),
        "script": (templates / "report.js").read_text(encoding="utf-8"),
        "style": (templates / "report.css").read_text(encoding="utf-8"),
    }


def _markdown_cell(text: object) -> str:
    """One line without markup: a name or a reason comes from a file that somebody else may have written."""
    return " ".join(html.escape(str(text), quote=False).replace("|", "\\|").split())


def _render(template: str, view: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown_cell
    return environment.get_template(template).render(view)
