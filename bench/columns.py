"""The columns of the table of results: what stands in them, in which unit, and how it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bench import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.analysis import Row


class Cell(msgspec.Struct, frozen=True):
    """What a table shows, what it is sorted by, and what a pointer that rests on it is told."""

    text: str
    value: str | float | None
    hint: str = ""
    muted: bool = False


class Column(msgspec.Struct, frozen=True):
    """One column; ``condition`` marks those that are the same in all rows of one condition."""

    header: str
    cell: Callable[[Row], Cell]
    number: bool = True
    condition: bool = False


def columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns in which at least one of these rows has a value."""
    return tuple(c for c in COLUMNS if any(c.cell(row).value is not None for row in rows))


def speedup(row: Row) -> Cell:
    """The speed-up, or the word that stands for it."""
    value = row.speedup_vs_dense
    if row.base:
        return Cell("base", value, "what the others' speed-up is given against", muted=True)
    if row.speedup_resolved is False:
        return Cell("none", value, f"{numbers.times(value)}: within the run's resolution", muted=True)
    return Cell(numbers.times(value), value)


def _interval(row: Row) -> Cell:
    text = numbers.NONE if row.base else numbers.interval(row.speedup_low, row.speedup_high)
    return Cell(text, row.speedup_low)


COLUMNS = (
    Column("Method", lambda row: Cell(row.method, row.method), number=False),
    Column("Pattern", lambda row: Cell(row.pattern, row.pattern), number=False),
    Column(
        "Sparsity",
        lambda row: Cell(f"{row.sparsity:g}", row.sparsity, f"achieved: {row.sparsity_achieved:.4f}"),
    ),
    Column("Backend", lambda row: Cell(row.backend, row.backend), number=False),
    Column("Batch", lambda row: Cell(str(row.batch_size), row.batch_size), condition=True),
    Column("Threads", lambda row: Cell(str(row.threads), row.threads), condition=True),
    Column("Accuracy", lambda row: Cell(numbers.accuracy(row.accuracy), row.accuracy)),
    Column("p50, ms", lambda row: Cell(numbers.milliseconds(row.latency_ms_p50), row.latency_ms_p50)),
    Column("p90, ms", lambda row: Cell(numbers.milliseconds(row.latency_ms_p90), row.latency_ms_p90)),
    Column("Speed-up", speedup),
    Column("95 % interval", _interval),
    Column(
        "MACs",
        lambda row: Cell(
            numbers.millions(row.macs_nonzero), row.macs_nonzero, f"dense: {numbers.millions(row.macs_dense)}"
        ),
    ),
    Column(
        "GFLOP/s",
        lambda row: Cell(
            numbers.gflops(row.gflops_useful),
            row.gflops_useful,
            f"dense MACs over the same time: {numbers.gflops(row.gflops_dense_equivalent)}",
        ),
    ),
    Column("Size", lambda row: Cell(numbers.megabytes(row.size_bytes), row.size_bytes)),
    Column("Memory", lambda row: Cell(numbers.megabytes(row.peak_memory_bytes), row.peak_memory_bytes)),
)
