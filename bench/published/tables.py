"""README's result tables, each made from one file of `bench/results`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.cpu.rows import make_rows
from bench.measurement_file import read_measurements
from bench.naming import FLOAT, NATIVE, engine_label
from bench.published.kinds import FOLDER, read_lines
from bench.published.lines import NetworkChoice, NetworkFloor, NetworkTime
from bench.report import numbers
from bench.report.analysis import analyse
from runtime.errors import UserError

if TYPE_CHECKING:
    from bench.cpu.rows import Row as CpuRow
    from bench.report.analysis import Row as SessionRow


class Table(msgspec.Struct, frozen=True):
    """A table of README's: the file of `bench/results` that it is made from, and who makes it."""

    source: str
    make: Callable[[Path], str]


def make_table(name: str, folder: Path = FOLDER) -> str:
    """Markdown of a table; raises ``UserError`` that lists the tables where there is none of that name."""
    if name not in TABLES:
        raise UserError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name].make(folder / TABLES[name].source)


def _markdown(heads: Sequence[str], right: int, rows: Sequence[Sequence[str]]) -> str:
    """A table whose last ``right`` columns are numbers."""
    rule = "|" + "---|" * (len(heads) - right) + "--:|" * right
    return "\n".join([_line(heads), rule, *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    # an empty cell is one blank, not two
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def _condition(batch_size: int, threads: int) -> str:
    return f"batch {batch_size}, {numbers.threads(threads)}"


def fashion_resnet8(path: Path) -> str:
    """A row per artifact of a session of `st3 bench`: sparsity rising, dense engines first, the slowest before."""
    rows = analyse(read_measurements(path)).rows
    conditions = list(dict.fromkeys((row.batch_size, row.threads) for row in rows))
    by_artifact: dict[tuple[str, str, str], dict[tuple[int, int], SessionRow]] = {}
    for row in rows:
        by_artifact.setdefault((row.checkpoint, row.backend, row.dtype), {})[row.batch_size, row.threads] = row
    lines = []
    for found in sorted(by_artifact.values(), key=lambda found: _order(next(iter(found.values())))):
        first = next(iter(found.values()))
        label = first.method if first.method == "dense" else f"{first.method} {_zeros(first)}"
        described = [
            label,
            engine_label(first.backend, first.dtype),
            numbers.accuracy(first.accuracy),
            numbers.millions(first.macs_nonzero),
        ]
        cells = [_session_cell(found.get(condition)) for condition in conditions]
        lines.append([*described, numbers.megabytes(first.size_bytes), *cells])
    heads = ["weights", "engine", "top-1", "non-zero MACs", "size", *(_condition(*c) for c in conditions)]
    return _markdown(heads, 3 + len(conditions), lines)


def _order(row: SessionRow) -> tuple[float, int, float]:
    return row.sparsity, row.macs_nonzero, -row.latency_ms_p50


def _zeros(row: SessionRow) -> str:
    return f"{row.sparsity:g}" if row.pattern == "unstructured" else row.pattern


def _session_cell(row: SessionRow | None) -> str:
    if row is None:
        return numbers.NONE
    against = "base" if row.base else "" if row.speedup_vs_dense is None else f"{row.speedup_vs_dense:.2f}x"
    return ", ".join(filter(None, (_ms(row.latency_ms_p50), against)))


def bench_cpu(path: Path) -> str:
    """A row per weights that native ran, with times as fast as ONNX Runtime with the dense weights.

    Dense engines in less than float32 have rows, too: they are what a user would take instead.
    """
    session = read_measurements(path)
    rows = [row for row in make_rows(session) if row.engine == NATIVE or row.dtype != FLOAT]
    # the first of some weights: a quantised file has zeros of its own
    macs = {record.name.partition("/")[0]: record.macs_nonzero for record in reversed(session.artifacts)}
    conditions = list(dict.fromkeys((row.batch_size, row.threads) for row in rows))
    found = {(_cpu_line(row), row.batch_size, row.threads): row for row in rows}
    lines = [
        [
            line,
            f"{macs[line.partition(',')[0]] / 1e6:.0f}",
            *(_cpu_cell(found.get((line, *condition))) for condition in conditions),
        ]
        for line in dict.fromkeys(map(_cpu_line, rows))
    ]
    return _markdown(["weights", "MMACs", *(_condition(*c) for c in conditions)], 1 + len(conditions), lines)


def _cpu_line(row: CpuRow) -> str:
    """``st3_90`` of native in float32, ``dense, openvino bfloat16``."""
    plain = (row.engine, row.dtype) == (NATIVE, FLOAT)
    return row.weights if plain else f"{row.weights}, {engine_label(row.engine, row.dtype)}"


def _cpu_cell(row: CpuRow | None) -> str:
    return numbers.NONE if row is None else f"{_ms(row.latency_ms_p50)}, {row.ratio_to_onnxruntime:.2f}x"


_VERSIONS = {
    "eager": "torch eager, batch normalisation folded, channels last",
    "st3 dense": "dense, this compiler",
    "st3 2to4": "2:4, this compiler",
    "st3 st3_95": "unstructured 0.95, this compiler",
}


def gpu_networks(path: Path) -> str:
    """A row per version of a network on a GPU: the median, and sparse ones as times as fast as our dense one."""
    lines = read_lines(path, NetworkChoice | NetworkFloor | NetworkTime)  # type: ignore[arg-type]
    times = {(line.version, line.batch): statistics.median(line.us) for line in lines if isinstance(line, NetworkTime)}
    batches = sorted({batch for _, batch in times})
    rows = []
    for version, title in _VERSIONS.items():
        cells = []
        for batch in batches:
            us = times.get((version, batch))
            sparse = version not in ("eager", "st3 dense")
            against = f", {times['st3 dense', batch] / us:.2f}x dense" if us and sparse else ""
            cells.append("" if us is None else f"{us:.0f} us{against}")
        rows.append([title, *cells])
    return _markdown(["", *(f"batch {batch}" for batch in batches)], len(batches), rows)


TABLES: dict[str, Table] = {
    "fashion-resnet8": Table(
        "bench/2026-11-27_fashion-resnet8_granite-rapids-2cpu_float16-float32-b1-b32-t1-t2.jsonl", fashion_resnet8
    ),
    "resnet50-cpu": Table(
        "bench-cpu/2026-11-27_resnet50-untrained_granite-rapids-2cpu_bfloat16-float16-float32-int8-b1-b16-t1-t2.jsonl",
        bench_cpu,
    ),
    "resnet50-gpu": Table("gpu-networks/2026-11-26_resnet50_h200_float16-b32-b128.jsonl", gpu_networks),
}
"""By the name that README's markers have. A new measurement is published by naming its file here."""
