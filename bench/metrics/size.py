"""Size: the bytes of an artifact's payload, which is what has to be shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from bench.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class Size(Metric):
    """As the manifest lists them, which the runtime has checked against the files."""

    unit = "bytes"
    better = "lower"
    scope = "artifact"

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:  # noqa: ARG002 - no picture has a size
        """See ``Metric.sample``: one sample."""
        return [float(engine.artifact.size_bytes)]


METRIC = Size()
