"""The benchmark on the terminal: native's steps, what must be said, and last one table of all engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from bench.cpu.logits import METRIC as LOGITS
from bench.cpu.plan import BASE, DENSE, weights_of
from bench.cpu.step_table import peak_lines, step_tables
from bench.naming import FLOAT, NATIVE, engine_label
from bench.report import numbers
from bench.report.analysis import analyse, resolution_of
from bench.report.precision import bits_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from bench.cpu.rows import Row
    from bench.measurement import ArtifactRecord, Measurements

COMPILE_TIME = "compile_time"
MEMORY_ALONE = "memory_alone"
PRECISION_NOTE = (
    "bfloat16, float16 and int8 are lower precisions than float32; how far their answers are from float32's is what "
    "logits says. What that costs in accuracy is not measured here, for these weights are not trained: "
    "`st3 bench --baseline` measures it with trained ones."
)


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
    against = precisions_table(rows)
    if against is not None:
        console.print()
        console.print(against)
        console.print(PRECISION_NOTE, highlight=False)
    for text in failure_lines(session):
        console.print(text, markup=False, highlight=False)


def failure_lines(session: Measurements) -> list[str]:
    """What could not be measured and why, each reason once."""
    records = {record.digest: record for record in session.artifacts}
    lines = [f"not measured: {refusal.name}: {refusal.reason}" for refusal in session.refusals]
    for m in session.measurements:
        if m.failure is not None:
            record = records[m.artifact]
            who = engine_label(record.engine, record.target.dtype)
            lines.append(f"not measured: {weights_of(record)} with {who}: {m.failure}")
    return list(dict.fromkeys(lines))


def engines_table(session: Measurements, rows: Sequence[Row]) -> Table:
    """A line per weights and engine; per condition the median latency and how many times as fast as ONNX Runtime."""
    timed = [m for m in session.measurements if m.metric == "latency" and not m.control]
    conditions = list(dict.fromkeys((m.batch_size, m.threads) for m in timed))
    records = {record.digest: record for record in session.artifacts}
    named = dict.fromkeys(_line(records[m.artifact]) for m in timed)
    order = list(dict.fromkeys(weights for weights, *_ in named))
    lines = sorted(named, key=lambda line: (order.index(line[0]), line[1:]))
    found = {(row.weights, row.engine, row.dtype, row.batch_size, row.threads): row for row in rows}
    recipe = session.artifacts[0].lineage.recipe
    table = _empty(f"{recipe}: latency, and how many times as fast as {BASE} in {FLOAT} with the {DENSE} weights")
    for name in ("MACs", "size", "compiled", "logits"):
        table.add_column(name, justify="right", no_wrap=True)
    for batch_size, threads in conditions:
        table.add_column(f"batch {batch_size}, {numbers.threads(threads)}", justify="right", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
    for line in lines:
        weights, engine, dtype = line
        mine = [record for record in session.artifacts if _line(record) == line]
        cells = [_cells(found.get((*line, *condition))) for condition in conditions]
        described = (*_described(session, mine), *(text for pair in cells for text in pair))
        label = engine_label(engine, dtype)
        table.add_row(weights, label, *described, style="bold" if engine == NATIVE else "")
    return table


def precisions_table(rows: Sequence[Row]) -> Table | None:
    """Native against the fastest dense engine in each precision; ``None`` where all compute in float32."""
    precisions = sorted(
        {dtype for row in rows for dtype in row.ratio_to_dense}, key=lambda dtype: (-bits_of(dtype), dtype)
    )
    if not set(precisions) - {FLOAT}:
        return None
    conditions = list(dict.fromkeys((row.batch_size, row.threads) for row in rows))
    mine: dict[tuple[str, str], dict[tuple[int, int], Row]] = {}
    for row in rows:
        if row.engine == NATIVE:
            mine.setdefault((row.weights, row.dtype), {})[row.batch_size, row.threads] = row
    table = _empty(
        "native: how many times as fast as the fastest other engine with the dense weights in each precision"
    )
    for batch_size, threads in conditions:
        for number, precision in enumerate(precisions):
            where = "" if number else f"batch {batch_size}, {numbers.threads(threads)}: "
            table.add_column(where + precision, justify="right", no_wrap=True)
    for (weights, dtype), found in mine.items():
        ratios = [
            found[condition].ratio_to_dense.get(precision) if condition in found else None
            for condition in conditions
            for precision in precisions
        ]
        table.add_row(weights, engine_label(NATIVE, dtype), *map(numbers.times, ratios))
    return table


def _line(record: ArtifactRecord) -> tuple[str, str, str]:
    return weights_of(record), record.engine, record.target.dtype


def _empty(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2), collapse_padding=True)
    for name in ("weights", "engine"):
        table.add_column(name, no_wrap=True)
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
