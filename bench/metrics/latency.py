"""Latency: wall-clock time of one call of the engine on one batch, in milliseconds."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, final

from bench.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class Latency(Metric):
    """Each sample is one call, input checks and output allocation included: what a caller waits for."""

    unit = "ms"
    better = "lower"
    scope = "round"

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """See ``Metric.sample``: one sample per batch."""
        name = engine.artifact.manifest.input.name
        samples_ms: list[float] = []
        for images_BCHW, _ in batches:
            inputs = {name: images_BCHW}
            start_ns = perf_counter_ns()
            engine.run(inputs)
            samples_ms.append((perf_counter_ns() - start_ns) / 1e6)
        return samples_ms


METRIC = Latency()
