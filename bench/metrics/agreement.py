"""Agreement: the fraction of the evaluation set that gets the same class as from the dense network of the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from bench.metric import AnswerMetric

if TYPE_CHECKING:
    from bench.metric import Answers


@final
class Agreement(AnswerMetric):
    """Two networks of one accuracy may be wrong about different pictures; this says how many change hands."""

    unit = "fraction"
    better = "higher"
    against = "dense"

    def score(self, answers: Answers) -> float:
        """See ``AnswerMetric.score``; a NaN agrees with nobody."""
        return float(((answers.classes == answers.labels) & answers.valid).mean())


METRIC = Agreement()
