"""The published JSON schemas of what the bench writes, generated from the structs that it is written from.

``report.schema.json`` and ``comparison.schema.json`` describe a whole document, ``measurement.schema.json`` one line of
``measurements.jsonl``. ``python -m bench.schemas`` writes them anew; a test compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.measurement import SCHEMA_VERSION as MEASUREMENT_VERSION
from bench.measurement import Record
from bench.report.compare import SCHEMA_VERSION as COMPARISON_VERSION
from bench.report.compare import Comparison
from bench.report.document import SCHEMA_VERSION as REPORT_VERSION
from bench.report.document import Document

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by its file's name."""
    return {
        "report.schema.json": _schema(Document, f"report.json of st3 report, schema {REPORT_VERSION}"),
        "comparison.schema.json": _schema(
            Comparison, f"compare.json of st3 report --compare, schema {COMPARISON_VERSION}"
        ),
        "measurement.schema.json": _schema(
            Record, f"one line of measurements.jsonl of st3 bench, up to schema {MEASUREMENT_VERSION}"
        ),
    }


def encode(schema: Mapping[str, Any]) -> str:
    """A schema as it is committed."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write every schema; the paths."""
    paths = []
    for name, schema in schemas().items():
        path = folder / name
        path.write_text(encode(schema), encoding="utf-8")
        paths.append(path)
    return paths


def _schema(described: Any, title: str) -> dict[str, Any]:
    made = msgspec.json.schema(described)
    # docstrings are indented as the interpreter keeps them, which differs between versions of Python
    return {"$schema": DIALECT, "title": title, **_plain(made)}


def _plain(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: " ".join(value.split()) if _is_text(key, value) else _plain(value) for key, value in part.items()}
    return [_plain(value) for value in part] if isinstance(part, list | tuple) else part


def _is_text(key: str, value: object) -> bool:
    return key == "description" and isinstance(value, str)
