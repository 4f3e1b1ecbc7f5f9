"""Writes a comparison of two sessions: one self-contained HTML page, and the same pairs as Markdown, CSV and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bench.report import numbers
from bench.report.compare import Comparison, Pair
from bench.report.compare_words import headline
from bench.report.page import assets, render, write_texts
from bench.report.write import encode, to_csv

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLUMNS = tuple(field.name for field in msgspec.structs.fields(Pair))
_SCRIPTS = ("filters", "compare")


class Group(msgspec.Struct, frozen=True):
    """The pairs of one condition."""

    recipe: str
    device: str
    batch_size: int
    threads: int
    headline: str
    rows: tuple[Pair, ...]


def write_comparison(comparison: Comparison, out: Path, links: tuple[str, str]) -> None:
    """Write ``compare.html``, ``.md``, ``.csv`` and ``.json``; ``links`` lead from ``out`` to the samples."""
    together = groups(comparison.pairs)
    view: dict[str, Any] = {
        "comparison": comparison,
        "groups": together,
        "links": links,
        "recipes": recipes(comparison),
    }
    view |= {"verdict": verdict, "speedup_verdict": speedup_verdict}
    page = view | assets({"groups": together}, _SCRIPTS)
    write_texts(
        {
            "compare.json": encode(comparison),
            "compare.csv": to_csv(comparison.pairs, COLUMNS),
            "compare.md": render("compare.md.j2", view),
            "compare.html": render("compare.html.j2", page),
        },
        out,
    )


def groups(pairs: Sequence[Pair]) -> list[Group]:
    """One group per recipe, device, batch size and number of threads, in the order of the pairs."""
    keys = dict.fromkeys(_condition(pair) for pair in pairs)
    made = []
    for key in keys:
        mine = tuple(pair for pair in pairs if _condition(pair) == key)
        made.append(Group(*key, headline=headline(mine), rows=mine))
    return made


def _condition(pair: Pair) -> tuple[str, str, int, int]:
    return pair.recipe, pair.device, pair.batch_size, pair.threads


def recipes(comparison: Comparison) -> list[str]:
    """The recipes of the pairs, each once."""
    return list(dict.fromkeys(pair.recipe for pair in comparison.pairs))


def verdict(pair: Pair) -> str:
    """The difference of the latencies in one word."""
    return _word(pair.differs, pair.ratio, "faster", "slower")


def speedup_verdict(pair: Pair) -> str:
    """The difference of the speed-ups over dense in one word; a dash where there is none to compare."""
    return (
        numbers.NONE if pair.speedup_ratio is None else _word(pair.speedup_differs, pair.speedup_ratio, "more", "less")
    )


def _word(differs: bool | None, ratio: float, above: str, below: str) -> str:
    if differs is None:
        return "unknown"
    return "none" if not differs else above if ratio > 1 else below
