"""The benchmark on the terminal: native's steps, what must be said, and last one table of all engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from bench.cpu.logits import METRIC as LOGITS
from bench.cpu.plan import BASE, DENSE, weights_of
from bench.cpu.step_table import peak_lines, step_tables
from bench.report import numbers
from bench.report.analysis import analyse, resolution_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from bench.cpu.rows import Row
    from bench.measurement import ArtifactRecord, Measurements

COMPILE_TIME = "compile_time"
MEMORY_ALONE = "memory_alone"


def show(console: Console, session: Measurements, rows: Sequence[Row], weights: Sequence[str]) -> None:
    """Print everything, the steps of ``weights`` first, the table of all engines and what is missing in it last."""
    for table in step_tables(session, weights):
        console.print(table)
        console.print()
    lines = (*peak_lines(session), *_memory_lines(session), *_resolution_lines(session))
    for text in (*lines, *(f"warning: {caution}" for caution in analyse(session).warnings)):
        console.print(text, markup=False, highlight=False)
    console.print()
    console.print(engines_table(session, rows))
    for text in failure_lines(session):
        console.print(text, markup=False, highlight=False)


def failure_lines(session: Measurements) -> list[str]:
    """What could not be measured and why, each reason once."""
    records = {record.digest: record for record in session.artifacts}
    lines = [f"not measured: {refusal.name}: {refusal.reason}" for refusal in session.refusals]
    for m in session.measurements:
        if m.failure is not None:
            record = records[m.artifact]
            lines.append(f"not measured: {weights_of(record)} with {record.engine}: {m.failure}")
    return list(dict.fromkeys(lines))


def engines_table(session: Measurements, rows: Sequence[Row]) -> Table:
    """A line per weights and engine; per condition the median latency and how many times as fast as ONNX Runtime."""
    timed = [m for m in session.measurements if m.metric == "latency" and not m.control]
    conditions = list(dict.fromkeys((m.batch_size, m.threads) for m in timed))
    records = {record.digest: record for record in session.artifacts}
    named = dict.fromkeys((weights_of(records[m.artifact]), records[m.artifact].engine) for m in timed)
    order = list(dict.fromkeys(weights for weights, _ in named))
    lines = sorted(named, key=lambda line: (order.index(line[0]), line[1]))
    found = {(row.weights, row.engine, row.batch_size, row.threads): row for row in rows}
    recipe = session.artifacts[0].lineage.recipe
    table = Table(
        title=f"{recipe}: latency, and how many times as fast as {BASE} with the {DENSE} weights",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2),
        collapse_padding=True,
    )
    for name in ("weights", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("MACs", "size", "compiled", "logits"):
        table.add_column(name, justify="right", no_wrap=True)
    for batch_size, threads in conditions:
        table.add_column(f"batch {batch_size}, {numbers.threads(threads)}", justify="right", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
    for weights, engine in lines:
        mine = [r for r in session.artifacts if (weights_of(r), r.engine) == (weights, engine)]
        cells = [_cells(found.get((weights, engine, *condition))) for condition in conditions]
        described = (*_described(session, mine), *(text for pair in cells for text in pair))
        table.add_row(weights, engine, *described, style="bold" if engine == "native" else "")
    return table


def _cells(row: Row | None) -> tuple[str, str]:
    if row is None:
        return numbers.NONE, ""
    return f"{numbers.milliseconds(row.latency_ms_p50)} ms", numbers.times(row.ratio_to_onnxruntime)


def _described(session: Measurements, mine: Sequence[ArtifactRecord]) -> tuple[str, str, str, str]:
    """MACs, payload of the smallest artifact, longest compilation, largest difference of the logits."""
    digests = {record.digest for record in mine}

    def worst(metric: str) -> float | None:
        return max(
            (
                m.samples[0][0]
                for m in session.measurements
                if m.artifact in digests and m.metric == metric and m.samples
            ),
            default=None,
        )

    seconds, difference = worst(COMPILE_TIME), worst(LOGITS)
    return (
        numbers.millions(mine[0].macs_nonzero),
        numbers.megabytes(min(record.size_bytes for record in mine)),
        numbers.NONE if seconds is None else f"{seconds:.0f} s",
        numbers.NONE if difference is None else f"{difference:.0e}",
    )


def _memory_lines(session: Measurements) -> Iterator[str]:
    records = {record.digest: record for record in session.artifacts}
    for m in session.measurements:
        if m.metric == MEMORY_ALONE and m.failure is None:
            yield (
                f"peak memory of a process that runs {records[m.artifact].name} on {numbers.threads(m.threads)} "
                f"through the runtime alone: {numbers.megabytes(int(m.samples[0][0]))}"
            )


def _resolution_lines(session: Measurements) -> Iterator[str]:
    timed = [m for m in session.measurements if m.metric == "latency"]
    for batch_size, threads in dict.fromkeys((m.batch_size, m.threads) for m in timed):
        resolution = resolution_of(session.measurements, batch_size, threads)
        yield (
            f"batch {batch_size}, {numbers.threads(threads)}: the same artifact in two processes differs by up to "
            f"{numbers.percent(resolution)}"
        )
