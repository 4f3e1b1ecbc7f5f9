"""The table of a sweep: mean and standard deviation over seeds, one row per method and sparsity."""

from __future__ import annotations

import statistics

import msgspec

from runtime.training_rows import SweepRow


class Cell(msgspec.Struct, frozen=True):
    """All seeds of one method at one sparsity; ``deviation`` is that of a sample, ``None`` for a single run."""

    method: str
    pattern: str
    target_sparsity: float
    sparsity: float
    runs: int
    accuracy: float
    deviation: float | None
    loss: float
    seconds: float


def cells(rows: list[SweepRow]) -> list[Cell]:
    """One per method, pattern and sparsity: dense first, then by pattern, sparsity and falling accuracy."""
    groups: dict[tuple[str, str, float], list[SweepRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.pattern, row.target_sparsity), []).append(row)
    made = [_cell(*place, group) for place, group in groups.items()]
    return sorted(made, key=lambda cell: (cell.method != "dense", cell.pattern, cell.target_sparsity, -cell.accuracy))


def markdown(made: list[Cell]) -> str:
    """A table for a terminal and for a page alike."""
    lines = [
        "| method | pattern | sparsity | reached | top-1, mean ± deviation | runs | loss | seconds a run |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for cell in made:
        spread = "" if cell.deviation is None else f" ± {cell.deviation:.4f}"
        lines.append(
            f"| {cell.method} | {cell.pattern} | {cell.target_sparsity:g} | {cell.sparsity:.4f} "
            f"| {cell.accuracy:.4f}{spread} | {cell.runs} | {cell.loss:.4f} | {cell.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _cell(method: str, pattern: str, target: float, group: list[SweepRow]) -> Cell:
    accuracies = [row.accuracy for row in group]
    return Cell(
        method=method,
        pattern=pattern,
        target_sparsity=target,
        sparsity=statistics.fmean(row.sparsity for row in group),
        runs=len(group),
        accuracy=statistics.fmean(accuracies),
        deviation=statistics.stdev(accuracies) if len(group) > 1 else None,
        loss=statistics.fmean(row.loss for row in group),
        seconds=statistics.fmean(row.seconds for row in group),
    )
