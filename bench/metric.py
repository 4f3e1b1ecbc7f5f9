"""The metric interface, and how a metric is found by its name."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

import bench.metrics
from runtime.batches import run_all
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.measurement import Scenario
    from runtime.engine import Engine

    Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


class Metric(ABC):
    """One quantity.

    Attributes:
        unit: the unit of every sample.
        better: whether a lower or a higher value is the better one.
        device_only: whether only artifacts that run on a device of its own, with a clock of its own, have it.
        scope: how often it is sampled. ``round``: many times, interleaved with the other artifacts, on a few
            batches that stay in memory. ``condition``: once per launch, after the rounds. ``artifact``: once per
            artifact and batch size, at the largest thread count, over the whole evaluation set.
        scenario: it is sampled in the rounds only where this scenario was asked for.
        turn_share: the length of its turn in a round, as a fraction of a whole one.
    """

    unit: str
    better: Literal["lower", "higher"]
    scope: Literal["round", "condition", "artifact"]
    device_only = False
    scenario: Scenario = "single-stream"
    turn_share = 1.0

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

    def unavailable(self, engine: Engine) -> str | None:
        """Why it cannot be sampled on this machine, or ``None``."""
        del engine
        return None


class Answers(msgspec.Struct, frozen=True):
    """What an artifact answered: ``scores`` ``(B, N)``, and the classes ``labels`` ``(B,)`` it is held against."""

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """``(B,)``, rows without a NaN: NumPy's argmax would call the NaN the highest."""
        return np.asarray(~np.isnan(self.scores).any(axis=1))

    @property
    def classes(self) -> NDArray[np.int64]:
        """``(B,)``, the class of the highest output; -1 where an output is a NaN, which is no class."""
        return np.where(self.valid, self.scores.argmax(axis=1), -1)


class AnswerMetric(Metric):
    """A metric of the answers alone: the evaluation set is run once for all of them.

    Attributes:
        against: what the answers are held against: the labels, or what the dense network of the recipe answers.
    """

    scope = "artifact"
    against: Literal["labels", "dense"] = "labels"

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """See ``Metric.sample``: one sample, over all batches; the labels are what ``against`` says."""
        return [self.score(collect(engine, batches))]

    @abstractmethod
    def score(self, answers: Answers) -> float:
        """The sample, in ``unit``."""


def collect(engine: Engine, batches: Iterable[Batch]) -> Answers:
    """Run all batches."""
    scores, labels = [], []
    for images_BCHW, labels_B in batches:
        scores.append(run_all(engine, images_BCHW))
        labels.append(labels_B)
    return Answers(np.concatenate(scores), np.concatenate(labels))


def metric_names(scope: str | None = None) -> list[str]:
    """The metrics found, sorted, or only those of one scope."""
    return [name for name in _found() if scope is None or load_metric(name).scope == scope]


@functools.cache
def _found() -> tuple[str, ...]:
    """They are asked for between all turns, and a folder that is listed anew disturbs the caches."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(bench.metrics.__path__)))


def load_metric(name: str) -> Metric:
    """The metric of that name; raises ``UserError`` with the valid names where there is none."""
    if name not in _found():
        raise UserError(f"there is no metric {name!r}; the metrics are {', '.join(_found())}")
    metric = importlib.import_module(f"bench.metrics.{name}").METRIC
    assert isinstance(metric, Metric), f"bench.metrics.{name}.METRIC is a {type(metric)}"
    return metric
