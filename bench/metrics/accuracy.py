"""Accuracy: the fraction of the evaluation set whose highest output is the label (top-1), run on the artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from bench.metric import AnswerMetric

if TYPE_CHECKING:
    from bench.metric import Answers


@final
class Accuracy(AnswerMetric):
    """A picture whose output holds a NaN counts as wrong."""

    unit = "fraction"
    better = "higher"

    def score(self, answers: Answers) -> float:
        """See ``AnswerMetric.score``."""
        return float((answers.classes == answers.labels).mean())


METRIC = Accuracy()
