"""Native's network step by step: how long each takes, and how much of what the processor can do it gets out."""

from __future__ import annotations

import statistics
from itertools import chain
from typing import TYPE_CHECKING, get_args

from rich.table import Table

from bench.cpu.plan import weights_of
from bench.machine.peaks import peak_of
from bench.measurement import Operand
from bench.naming import FLOAT
from bench.report import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench.measurement import ArtifactRecord, Measurements, Step


def gflops_useful(step: Step) -> float:
    """Two operations for each MAC with a non-zero weight, over the median time."""
    return _gflops(step.macs, statistics.median(step.samples_ms))


def step_tables(session: Measurements, weights: Sequence[str]) -> Iterator[Table]:
    """One table per artifact with these weights and batch size, with columns for each number of threads."""
    records = {record.digest: record for record in session.artifacts if weights_of(record) in weights}
    for key in dict.fromkeys((step.artifact, step.batch_size) for step in session.steps):
        if key[0] in records:
            steps = [step for step in session.steps if (step.artifact, step.batch_size) == key]
            yield _table(session, records[key[0]], steps)


def peak_lines(session: Measurements) -> Iterator[str]:
    """The measured peaks in words, one line per dtype and number of threads."""
    for threads, dtype in sorted(
        {(p.threads, p.dtype) for p in session.peaks}, key=lambda pair: (pair[1] != FLOAT, pair)
    ):
        found = [(operand, peak_of(session.peaks, operand, threads, dtype)) for operand in get_args(Operand)]
        places = ", ".join(f"{numbers.gflops(value)} from {operand}" for operand, value in found if value is not None)
        which = "" if dtype == FLOAT else f" in {dtype}"
        yield f"multiply-adds{which}, {numbers.threads(threads)}: GFLOP/s {places}"


def _table(session: Measurements, record: ArtifactRecord, steps: Sequence[Step]) -> Table:
    counts = sorted({step.threads for step in steps})
    by_count = {threads: [step for step in steps if step.threads == threads] for threads in counts}
    title = (
        f"{record.name}, batch {steps[0].batch_size}: steps, and their share of the measured peak of multiply-adds "
        f"from registers and with an operand from L1"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2), collapse_padding=True)
    for name in ("step", "kernel"):
        table.add_column(name, no_wrap=True)
    for name in ("density", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    for threads in counts:
        for name in (f"{numbers.threads(threads)}, ms", "GFLOP/s", "of peak", "of L1's"):
            table.add_column(name, justify="right", no_wrap=True)
    densities = {layer.name: f"{layer.density:.3f}" for layer in record.layers}
    operands: tuple[Operand, ...] = ("registers", "L1")
    peaks = {
        threads: tuple(peak_of(session.peaks, operand, threads, record.target.dtype) for operand in operands)
        for threads in counts
    }
    totals = []
    for threads, mine in by_count.items():
        whole_ms = sum(statistics.median(step.samples_ms) for step in mine)
        totals.append(_cells(sum(step.macs for step in mine), whole_ms, peaks[threads]))
    for row in zip(*by_count.values(), strict=True):
        cells = [_cells(s.macs, statistics.median(s.samples_ms), peaks[s.threads]) for s in row]
        step = row[0]
        macs = numbers.millions(step.macs) if step.macs else numbers.NONE
        density = densities.get(step.layer, numbers.NONE)
        table.add_row(step.layer or step.name, step.kernel, density, macs, *chain.from_iterable(cells))
    whole = sum(step.macs for step in by_count[counts[0]])
    table.add_row("all steps", "", "", numbers.millions(whole), *chain.from_iterable(totals), style="bold")
    return table


def _cells(macs: int, ms: float, peaks: Iterable[float | None]) -> tuple[str, ...]:
    """Time, GFLOP/s and shares of the peaks; dashes where a step has no weights."""
    speed = _gflops(macs, ms)
    shares = [numbers.percent(speed / most if most and macs else None) for most in peaks]
    return f"{ms:.3f}", numbers.gflops(speed) if macs else numbers.NONE, *shares


def _gflops(macs: int, ms: float) -> float:
    return 2 * macs / ms / 1e6
