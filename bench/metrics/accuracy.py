"""Accuracy: the fraction of the evaluation set whose highest output is the label (top-1), run on the artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from bench.metric import Metric
from runtime.batches import run_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class Accuracy(Metric):
    """A picture whose output holds a NaN counts as wrong: NumPy's argmax would call the NaN the highest."""

    unit = "fraction"
    better = "higher"
    scope = "artifact"

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:
        """See ``Metric.sample``: one sample, over all batches."""
        right = seen = 0
        for images_BCHW, labels_B in batches:
            scores_BN = run_all(engine, images_BCHW)
            valid_B = ~np.isnan(scores_BN).any(axis=1)
            right += int(((scores_BN.argmax(axis=1) == labels_B) & valid_B).sum())
            seen += len(labels_B)
        return [right / seen]


METRIC = Accuracy()
