"""What the harness itself costs: an engine that does nothing, timed on the way that every engine is timed."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, final

import numpy as np

from bench.metrics.latency import METRIC
from runtime.artifact import Artifact, Lineage, Manifest, Requirements, Target, TensorSpec, Tolerance
from runtime.data import Preprocessing
from runtime.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SHAPE = (1, 1, 1, 1)


@final
class IdleEngine(Engine):
    """Computes nothing: what is left is what ``Engine.run`` does around every engine."""

    def __init__(self) -> None:
        super().__init__(_artifact(), threads=1)

    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        """See ``Engine._compute``."""


def idle_calls(calls: int, rounds: int) -> tuple[list[float], list[float]]:
    """Microseconds, one per round: the median of what is taken for a call's latency, and the whole of a call."""
    engine = IdleEngine()
    batch = np.zeros(_SHAPE, np.float32), np.zeros(1, np.int64)
    samples_us, loop_us = [], []
    for _ in range(rounds):
        start_ns = perf_counter_ns()
        samples_ms = METRIC.sample(engine, repeat(batch, calls))
        loop_us.append((perf_counter_ns() - start_ns) / 1e3 / calls)
        samples_us.append(float(np.median(samples_ms)) * 1e3)
    return samples_us, loop_us


def _artifact() -> Artifact:
    manifest = Manifest(
        schema_version=1,
        name="idle",
        backend="idle",
        engine="idle",
        target=Target(device="cpu", architecture="portable", dtype="float32", batch_size=1, threads=1),
        lineage=Lineage("idle", "dense", "dense", 0.0, 0.0, None, None, "unknown", "", {}),
        input=TensorSpec("x", _SHAPE, "float32"),
        output=TensorSpec("y", (1, 1), "float32"),
        classes=("one",),
        preprocessing=Preprocessing(_SHAPE[1:], (0.0,), (1.0,)),
        layers=(),
        tolerance=Tolerance(0.0),
        requirements=Requirements(),
        files={},
    )
    return Artifact(Path(), manifest, "idle")
