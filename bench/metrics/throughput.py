"""Throughput: pictures a second where all are there from the start (the offline scenario)."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, final

from bench.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class Throughput(Metric):
    """Batches run one behind the other under one clock, so that what lies between two calls counts as well.

    On a GPU the transfers count. MLPerf's offline scenario has one query of 24576 samples at least, and any batch;
    here it is a turn, in batches of the size that the artifact is measured with.
    """

    unit = "pictures/s"
    better = "higher"
    scope = "round"
    scenario = "offline"
    turn_share = 0.25

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """See ``Metric.sample``: one sample."""
        name = engine.artifact.manifest.input.name
        pictures = 0
        start_ns = perf_counter_ns()
        for images_BCHW, _ in batches:
            engine.run({name: images_BCHW})
            pictures += len(images_BCHW)
        return [pictures / ((perf_counter_ns() - start_ns) / 1e9)]


METRIC = Throughput()
