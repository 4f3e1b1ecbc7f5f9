"""The short table on the terminal: what the report says, in the width of a window."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from bench.machine.peaks import bandwidth_of, peak_of
from bench.naming import FLOAT, engine_label
from bench.report import numbers
from bench.report.columns import speedup
from bench.report.compare_report import groups as compared
from bench.report.compare_report import verdict

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measurement import Measurements
    from bench.report.analysis import Analysis
    from bench.report.compare import Comparison
    from bench.report.summary import Group


def print_session(session: Measurements, source: Path, as_json: bool, last: str) -> None:
    """Print a session's table, or its report as JSON; ``last`` says where the rest lies."""
    from bench.report.analysis import analyse
    from bench.report.document import document
    from bench.report.summary import groups
    from bench.report.write import encode

    analysis = analyse(session)
    if as_json:
        click.echo(encode(document(session, source.name, analysis)), nl=False)
        return
    show(terminal(), analysis, groups(analysis.rows))
    for line in (*harness_lines(session), *capacity_lines(session)):
        click.echo(line)
    click.echo(f"\n{last}")


def harness_lines(session: Measurements) -> list[str]:
    """What the bench itself costs, in words."""
    return [
        f"the bench itself: {statistics.median(found.samples_us):.2f} us of a call's latency, "
        f"{statistics.median(found.loop_us):.2f} us a call in all (an engine that computes nothing)"
        for found in session.harness
    ]


def capacity_lines(session: Measurements) -> list[str]:
    """What the processor was measured to do in the session, one line per number of threads."""
    lines = []
    for threads in sorted({peak.threads for peak in session.peaks}):
        peak, half = (peak_of(session.peaks, "registers", threads, dtype) for dtype in ("float32", "float16"))
        read = bandwidth_of(session.bandwidths, "DRAM", threads)
        limits = [f"{peak:.0f} GFLOP/s"] if peak is not None else []
        limits += [f"{half:.0f} GFLOP/s in float16"] if half is not None else []
        limits += [f"{read:.1f} GB/s read from memory"] if read is not None else []
        lines.append(f"the processor, {numbers.threads(threads)}: {', '.join(limits)}")
    return lines


def terminal() -> Console:
    """Where tables are printed; a file or a pipe has no width, and a name should not be folded into a default one."""
    from rich.console import Console

    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def show(console: Console, analysis: Analysis, comparable: list[Group]) -> None:
    """Print failures, warnings, a table per condition, and last the answer in one line per condition."""
    for failure in analysis.failures:
        where = f" at batch {failure.batch_size}, threads {failure.threads}" if failure.batch_size else ""
        console.print(
            f"not measured: {failure.name} {engine_label(failure.backend, failure.dtype)}{where}: {failure.reason}",
            markup=False,
            highlight=False,
        )
    for warning in analysis.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    for group in comparable:
        console.print()
        console.print(_table(group))
    console.print()
    for group in comparable:
        where = f"batch {group.batch_size}, {numbers.threads(group.threads)}"
        best = next((pick.best for pick in group.picks if pick.best is not None), None)
        which = "" if best is None else f"{best.checkpoint}{'' if best.dtype == FLOAT else f' in {best.dtype}'} is "
        text = " ".join(filter(None, (f"{where}: {which}{group.headline}", group.caveat)))
        console.print(text, markup=False, highlight=False)


def _table(group: Group) -> Table:
    resolution = "unknown" if group.resolution is None else numbers.percent(group.resolution)
    table = _empty(
        f"{group.recipe}, batch {group.batch_size}, {numbers.threads(group.threads)}, resolution {resolution}",
        ("accuracy", "MACs", "p50 ms", "speed-up", "size"),
    )
    # where not all are in float32, each row says in what it is
    several = any(row.dtype != FLOAT for row in group.rows)
    for row in group.rows:
        table.add_row(
            row.checkpoint,
            f"{row.backend} {row.dtype}" if several else row.backend,
            numbers.accuracy(row.accuracy),
            numbers.millions(row.macs_nonzero),
            numbers.milliseconds(row.latency_ms_p50),
            speedup(row).text,
            numbers.megabytes(row.size_bytes),
            style="bold" if row.pareto else "",
        )
    return table


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print what was not compared, warnings, a table per condition, and last the answer."""
    for alone in comparison.unpaired:
        where = f"batch {alone.batch_size}, threads {alone.threads}"
        what = f"{alone.side}'s {alone.checkpoint} {engine_label(alone.backend, alone.dtype)}"
        text = f"not compared: {what}, {where}: {alone.reason}"
        console.print(text, markup=False, highlight=False)
    for warning in comparison.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    for group in compared(comparison.pairs):
        where = f"batch {group.batch_size}, {numbers.threads(group.threads)}"
        table = _empty(f"{group.recipe}, {where}", ("A, ms", "B, ms", "B/A speed", "resolution", "difference"))
        for pair in group.rows:
            table.add_row(
                pair.checkpoint,
                engine_label(pair.backend, pair.dtype),
                numbers.milliseconds(pair.latency_ms_a),
                numbers.milliseconds(pair.latency_ms_b),
                numbers.times(pair.ratio),
                numbers.percent(pair.resolution),
                verdict(pair),
                style="bold" if pair.differs else "",
            )
        console.print()
        console.print(table)
    console.print()
    console.print(f"{comparison.headline} {comparison.speedups}", markup=False, highlight=False)


def _empty(title: str, numeric: tuple[str, ...]) -> Table:
    """A table of artifacts without rows."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True, padding=(0, 2))
    table.add_column("checkpoint", overflow="fold")
    table.add_column("backend", no_wrap=True)
    for name in numeric:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    return table
