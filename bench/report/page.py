"""Fills the templates: the self-contained HTML page with its styles, scripts and data, and the Markdown beside it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.naming import engine_label
from bench.report import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

_TEMPLATES = Path(__file__).parent / "templates"
_STYLES = ("theme", "page", "charts", "tables", "print")
_SHARED_SCRIPTS = ("theme", "marks", "axes", "table")


def assets(data: object, scripts: Iterable[str]) -> dict[str, str]:
    """What makes a page self-contained: styles, scripts, plotly.js, and what the charts draw.

    Args:
        data: what ``data`` is in the scripts.
        scripts: names of files in ``templates/js``; those that all pages share come before them.
    """
    from plotly.offline import get_plotlyjs

    # inside <script> only "<" can end the element early, and JSON has another way to write it
    encoded = msgspec.json.encode(data).decode().replace("<", "\\u003c")
    names = (*_SHARED_SCRIPTS, *scripts)
    body = "\n".join((_TEMPLATES / f"js/{name}.js").read_text(encoding="utf-8") for name in names)
    return {
        "data": encoded,
        "plotly": get_plotlyjs(),
        "script": f'(() => {{\n"use strict";\n{body}\n}})();',
        "style": "\n".join((_TEMPLATES / f"css/{name}.css").read_text(encoding="utf-8") for name in _STYLES),
    }


def render(template: str, view: dict[str, Any]) -> str:
    """A template filled; a name that it does not know is an error, and what it prints is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = markdown_cell
    return environment.get_template(template).render({"engine_label": engine_label, "numbers": numbers, **view})


def markdown_cell(text: object) -> str:
    """One line without markup: a name or a reason comes from a file that somebody else may have written."""
    return " ".join(html.escape(str(text), quote=False).replace("|", "\\|").split())


def write_texts(texts: dict[str, str], out: Path) -> None:
    """Write files into ``out``, each whole or not at all; the folder is made if it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        part = out / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(out / name)
