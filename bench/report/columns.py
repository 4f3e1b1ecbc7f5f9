"""The columns of the table of results: what stands in them, in which unit, and how it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from bench.naming import FLOAT
from bench.report import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.report.analysis import Row

Topic = Literal["overview", "latency", "answers", "work", "resources"]
TOPICS: tuple[tuple[Topic, str], ...] = (
    ("overview", "Overview"),
    ("latency", "Latency and throughput"),
    ("answers", "Answers"),
    ("work", "Work done"),
    ("resources", "Resources"),
)
_ALWAYS: tuple[Topic, ...] = tuple(topic for topic, _ in TOPICS)


class Cell(msgspec.Struct, frozen=True):
    """What a table shows, what it is sorted by, and what a pointer that rests on it is told."""

    text: str
    value: str | float | None
    hint: str = ""
    muted: bool = False


class Column(msgspec.Struct, frozen=True):
    """One column; ``condition`` marks those that are the same in all rows of one condition.

    One that has the ``plain`` value in all rows is left out.
    """

    header: str
    cell: Callable[[Row], Cell]
    topics: tuple[Topic, ...] = _ALWAYS
    number: bool = True
    condition: bool = False
    plain: str | None = None


def columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns in which at least one of these rows has a value that is worth saying."""
    return tuple(c for c in COLUMNS if any(c.cell(row).value not in (None, c.plain) for row in rows))


def topics(shown: Sequence[Column]) -> tuple[tuple[Topic, str], ...]:
    """The topics that at least one of these columns is about alone or with others, but not with all."""
    about = {topic for column in shown if column.topics != _ALWAYS for topic in column.topics}
    return tuple(entry for entry in TOPICS if entry[0] in about)


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


def _macs(row: Row) -> Cell:
    return Cell(numbers.macs(row.macs_nonzero), row.macs_nonzero, f"dense: {numbers.macs(row.macs_dense)}")


def _sparsity(row: Row) -> Cell:
    return Cell(f"{row.sparsity:g}", row.sparsity, f"achieved: {row.sparsity_achieved:.4f}")


def _identity() -> Iterator[Column]:
    yield Column("Method", lambda row: Cell(row.method, row.method), number=False)
    yield Column("Pattern", lambda row: Cell(row.pattern, row.pattern), number=False)
    yield Column("Sparsity", _sparsity)
    yield Column("Backend", lambda row: Cell(row.backend, row.backend), number=False)
    yield Column("Dtype", lambda row: Cell(row.dtype, row.dtype), number=False, plain=FLOAT)
    yield Column("Device", lambda row: Cell(row.device, row.device), number=False, condition=True)
    yield Column("Batch", lambda row: Cell(str(row.batch_size), row.batch_size), condition=True)
    yield Column("Threads", lambda row: Cell(str(row.threads), row.threads), condition=True)


def _answers() -> Iterator[Column]:
    top1: tuple[Topic, ...] = ("overview", "answers")
    yield Column("Accuracy", lambda row: Cell(numbers.accuracy(row.accuracy), row.accuracy), top1)
    only: tuple[Topic, ...] = ("answers",)
    yield Column("Top-5", lambda row: Cell(numbers.accuracy(row.accuracy_top5), row.accuracy_top5), only)
    yield Column("Agrees with dense", lambda row: Cell(numbers.accuracy(row.agreement), row.agreement), only)
    yield Column("ECE", lambda row: Cell(numbers.accuracy(row.calibration_error), row.calibration_error), only)


def _latency() -> Iterator[Column]:
    both: tuple[Topic, ...] = ("overview", "latency")
    only: tuple[Topic, ...] = ("latency",)
    yield Column("p50, ms", lambda row: Cell(numbers.milliseconds(row.latency_ms_p50), row.latency_ms_p50), both)
    yield Column("p90, ms", lambda row: Cell(numbers.milliseconds(row.latency_ms_p90), row.latency_ms_p90), only)
    yield Column("p99, ms", lambda row: Cell(numbers.milliseconds(row.latency_ms_p99), row.latency_ms_p99), only)
    yield Column("Speed-up", speedup, both)
    yield Column("95 % interval", _interval, both)
    yield Column("Offline, 1/s", lambda row: Cell(numbers.rate(row.pictures_per_s), row.pictures_per_s), only)
    yield Column("Server, 1/s", lambda row: Cell(numbers.rate(row.server_rate_per_s), row.server_rate_per_s), only)
    yield Column(
        "Server p99, ms",
        lambda row: Cell(numbers.milliseconds(row.server_p99_ms), row.server_p99_ms),
        only,
    )


def _work() -> Iterator[Column]:
    only: tuple[Topic, ...] = ("work",)
    yield Column("Dense MACs", lambda row: Cell(numbers.macs(row.macs_dense), row.macs_dense), only)
    yield Column("Non-zero MACs", _macs, ("overview", "work"))
    yield Column("Executed MACs", lambda row: Cell(numbers.macs(row.macs_usable), row.macs_usable), only)
    yield Column("GFLOP/s non-zero", lambda row: Cell(numbers.gflops(row.gflops_useful), row.gflops_useful), only)
    yield Column("GFLOP/s executed", lambda row: Cell(numbers.gflops(row.gflops_usable), row.gflops_usable), only)
    yield Column("Of peak", lambda row: Cell(numbers.percent(row.share_of_peak), row.share_of_peak), only)
    yield Column(
        "Of bandwidth", lambda row: Cell(numbers.percent(row.share_of_bandwidth), row.share_of_bandwidth), only
    )


def _resources() -> Iterator[Column]:
    only: tuple[Topic, ...] = ("resources",)
    yield Column("Size", lambda row: Cell(numbers.megabytes(row.size_bytes), row.size_bytes), ("overview", "resources"))
    yield Column("Memory", lambda row: Cell(numbers.megabytes(row.peak_memory_bytes), row.peak_memory_bytes), only)
    yield Column("Load, ms", lambda row: Cell(numbers.milliseconds(row.load_ms), row.load_ms), only)
    yield Column(
        "Energy, mJ",
        lambda row: Cell(numbers.millijoules(row.energy_j_per_picture), row.energy_j_per_picture),
        only,
    )


COLUMNS = (*_identity(), *_answers(), *_latency(), *_work(), *_resources())
