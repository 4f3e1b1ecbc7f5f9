"""Latency: time of one call of the engine on one batch, in milliseconds."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, final

from bench.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class Latency(Metric):
    """On a CPU each sample is one call, input checks and output allocation included: what a caller waits for.

    On a GPU it is the GPU's own time for a batch that lies in its memory; ``latency_call`` has the transfers as well.
    """

    unit = "ms"
    better = "lower"
    scope = "round"

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """See ``Metric.sample``: one sample per batch."""
        name = engine.artifact.manifest.input.name
        samples_ms: list[float] = []
        for images_BCHW, _ in batches:
            inputs = {name: images_BCHW}
            on_device_ms = engine.device_ms(inputs)
            samples_ms.append(call_ms(engine, inputs) if on_device_ms is None else on_device_ms)
        return samples_ms


def call_ms(engine: Engine, inputs: Mapping[str, NDArray[np.float32]]) -> float:
    """Wall-clock milliseconds of one call."""
    start_ns = perf_counter_ns()
    engine.run(inputs)
    return (perf_counter_ns() - start_ns) / 1e6


METRIC = Latency()
