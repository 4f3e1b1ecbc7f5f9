"""Accuracy: the fraction of the evaluation set whose highest output is the label (top-1), run on the artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from bench.metric import Metric

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
        spec_in, spec_out = engine.artifact.manifest.input, engine.artifact.manifest.output
        right = seen = 0
        for images_BCHW, labels_B in batches:
            count = labels_B.shape[0]
            # an artifact's batch size is fixed, so a short last batch is padded and the padding's answers dropped
            missing = spec_in.shape[0] - count
            padded = np.pad(images_BCHW, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images_BCHW
            scores_BN = engine.run({spec_in.name: padded})[spec_out.name][:count]
            valid_B = ~np.isnan(scores_BN).any(axis=1)
            right += int(((scores_BN.argmax(axis=1) == labels_B) & valid_B).sum())
            seen += count
        return [right / seen]


METRIC = Accuracy()
