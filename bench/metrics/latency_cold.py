"""Cold latency: a GPU's own time of one call, its second-level cache emptied before, in milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from bench.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class ColdLatency(Metric):
    """``latency`` finds in the cache what the call before left there: weights above all."""

    unit = "ms"
    better = "lower"
    scope = "round"
    device_only = True

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """See ``Metric.sample``: one sample per batch."""
        name = engine.artifact.manifest.input.name
        return [_cold_ms(engine, {name: images_BCHW}) for images_BCHW, _ in batches]


def _cold_ms(engine: Engine, inputs: Mapping[str, NDArray[np.float32]]) -> float:
    found = engine.device_ms(inputs, cold=True)
    assert found is not None, f"{type(engine)} has no device of its own, and is not to be asked"
    return found


METRIC = ColdLatency()
