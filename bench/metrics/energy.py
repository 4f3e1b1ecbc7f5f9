"""Energy: joules a picture, as the processor's or the GPU's own counter tells."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, final

from bench.measure import joules
from bench.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.engine import Engine

WINDOW_S = 0.5


@final
class Energy(Metric):
    """All that the package or the GPU takes in half a second of batches, other processes and idling included."""

    unit = "J/picture"
    better = "lower"
    scope = "condition"

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """See ``Metric.sample``: one sample."""
        name = engine.artifact.manifest.input.name
        meter = joules.meter(engine.artifact.manifest.target.device)
        given = [images_BCHW for images_BCHW, _ in batches]
        pictures = 0
        begin_j, end = meter.read(), perf_counter() + WINDOW_S
        while perf_counter() < end:
            for images_BCHW in given:
                engine.run({name: images_BCHW})
                pictures += len(images_BCHW)
        return [meter.since(begin_j) / pictures]

    def unavailable(self, engine: Engine) -> str | None:
        """See ``Metric.unavailable``."""
        return joules.unreadable(engine.artifact.manifest.target.device)


METRIC = Energy()
