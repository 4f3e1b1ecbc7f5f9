"""The short table on the terminal: what the report says, in the width of a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from bench import numbers
from bench.columns import speedup

if TYPE_CHECKING:
    from rich.console import Console

    from bench.analysis import Analysis
    from bench.summary import Group


def show(console: Console, analysis: Analysis, comparable: list[Group]) -> None:
    """Print failures, warnings, a table per condition, and last the answer in one line per condition."""
    for failure in analysis.failures:
        where = f" at batch {failure.batch_size}, threads {failure.threads}" if failure.batch_size else ""
        console.print(
            f"not measured: {failure.name} {failure.backend}{where}: {failure.reason}", markup=False, highlight=False
        )
    for warning in analysis.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    for group in comparable:
        console.print()
        console.print(_table(group))
    console.print()
    for group in comparable:
        where = f"batch {group.batch_size}, {numbers.threads(group.threads)}"
        console.print(f"{where}: {group.headline}", markup=False, highlight=False)


def _table(group: Group) -> Table:
    resolution = "unknown" if group.resolution is None else numbers.percent(group.resolution)
    table = Table(
        title=f"{group.recipe}, batch {group.batch_size}, {numbers.threads(group.threads)}, resolution {resolution}",
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 2),
    )
    table.add_column("checkpoint", overflow="fold")
    table.add_column("backend", no_wrap=True)
    for name in ("accuracy", "MACs", "p50 ms", "speed-up", "size"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for row in group.rows:
        table.add_row(
            row.checkpoint,
            row.backend,
            numbers.accuracy(row.accuracy),
            numbers.millions(row.macs_nonzero),
            numbers.milliseconds(row.latency_ms_p50),
            speedup(row).text,
            numbers.megabytes(row.size_bytes),
            style="bold" if row.pareto else "",
        )
    return table
