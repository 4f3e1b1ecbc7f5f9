"""Which compiled batch sizes a number of rows is run in, by what each was measured to take here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from runtime.batches import padded, run_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from runtime.engine import Engine

_WARM_UPS = 3


def warm(engine: Engine) -> dict[int, float]:
    """Run every compiled batch size until it is warm; the milliseconds that a batch of each took, the least."""
    manifest = engine.artifact.manifest
    run_ms = {}
    for size in manifest.target.sizes:
        batch = np.zeros((size, *manifest.input.shape[1:]), np.float32)
        times = []
        for _ in range(_WARM_UPS):
            began = time.perf_counter()
            run_outputs(engine, batch)
            times.append((time.perf_counter() - began) * 1e3)
        run_ms[size] = min(times)
    return run_ms


def cheapest_cut(rows: int, run_ms: Mapping[int, float]) -> list[int]:
    """The batch sizes that ``rows`` run in soonest, the largest first; the last one may not be full.

    Fifteen rows run as fifteen of one, or filled up to one batch of sixteen, whichever measured less.

    Args:
        rows: how many there are, from 1.
        run_ms: the compiled batch sizes and what one batch of each takes.
    """
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for count in range(1, rows + 1):
        cost, size = min((best[max(0, count - size)][0] + ms, size) for size, ms in run_ms.items())
        best.append((cost, [size, *best[max(0, count - size)][1]]))
    return sorted(best[rows][1], reverse=True)


def run_rows(engine: Engine, cut: list[int], rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Each output of the rows, run in batches of the sizes of ``cut``; ``(n, ...)``, in the manifest's order."""
    parts = []
    start = 0
    for size in cut:
        batch = rows[start : start + size]
        if len(batch) < size:
            batch = padded(batch, size)
        parts.append([output[: len(rows) - start] for output in run_outputs(engine, batch).values()])
        start += size
    return parts[0] if len(parts) == 1 else [np.concatenate(output) for output in zip(*parts, strict=True)]
