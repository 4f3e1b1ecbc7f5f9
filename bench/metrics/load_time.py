"""Load time: from an artifact whose files are checked to an engine that is ready, in milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from bench.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class LoadTime(Metric):
    """In a new process, so with the import of the engine's package; the files have been read just before."""

    unit = "ms"
    better = "lower"
    scope = "condition"

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:  # noqa: ARG002 - it is loaded already
        """See ``Metric.sample``: one sample."""
        return [engine.load_ms]


METRIC = LoadTime()
