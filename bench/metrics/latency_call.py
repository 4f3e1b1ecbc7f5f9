"""Call latency: wall-clock time of one call of an engine on a GPU, in milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from bench.metric import Metric
from bench.metrics.latency import call_ms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class CallLatency(Metric):
    """Input checks, the batch's way to the GPU, the run, and the answer's way back: what a caller waits for."""

    unit = "ms"
    better = "lower"
    scope = "round"
    device_only = True

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """See ``Metric.sample``: one sample per batch."""
        name = engine.artifact.manifest.input.name
        return [call_ms(engine, {name: images_BCHW}) for images_BCHW, _ in batches]


METRIC = CallLatency()
