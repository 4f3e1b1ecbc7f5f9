"""The metric interface, and how a metric is found by its name."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import bench.metrics
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from runtime.engine import Engine

    Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


class Metric(ABC):
    """One quantity.

    Attributes:
        unit: the unit of every sample.
        better: whether a lower or a higher value is the better one.
        device_only: whether only artifacts that run on a device of its own, with a clock of its own, have it.
        scope: how often it is sampled. ``round``: many times, interleaved with the other artifacts, on a few
            batches that stay in memory. ``condition``: once per artifact and thread count, after the rounds.
            ``artifact``: once per artifact, at the largest thread count, over the whole evaluation set.
    """

    unit: str
    better: Literal["lower", "higher"]
    scope: Literal["round", "condition", "artifact"]
    device_only = False

    @abstractmethod
    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """Measure.

        Args:
            engine: the loaded artifact.
            batches: normalised pictures ``(B, C, H, W)`` with their labels ``(B,)``; the last batch of an
                evaluation set may be shorter than the others.

        Returns:
            The raw samples, in ``unit``.
        """


def metric_names(scope: str | None = None) -> list[str]:
    """The metrics found, sorted, or only those of one scope."""
    names = sorted(module.name for module in pkgutil.iter_modules(bench.metrics.__path__))
    return names if scope is None else [name for name in names if load_metric(name).scope == scope]


def load_metric(name: str) -> Metric:
    """The metric of that name; raises ``UserError`` with the valid names where there is none."""
    known = metric_names()
    if name not in known:
        raise UserError(f"there is no metric {name!r}; the metrics are {', '.join(known)}")
    metric = importlib.import_module(f"bench.metrics.{name}").METRIC
    assert isinstance(metric, Metric), f"bench.metrics.{name}.METRIC is a {type(metric)}"
    return metric
