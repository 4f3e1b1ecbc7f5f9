"""Top-5 accuracy: the fraction of the evaluation set whose label is among the five highest outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from bench.metric import AnswerMetric

if TYPE_CHECKING:
    from bench.metric import Answers

HIGHEST = 5


@final
class TopFive(AnswerMetric):
    """Of several equal outputs the label counts as the last, so that a network that answers a constant gains nothing.

    With five classes or fewer every finite answer that is not a tie is right.
    """

    unit = "fraction"
    better = "higher"

    def score(self, answers: Answers) -> float:
        """See ``AnswerMetric.score``."""
        given_B1 = np.take_along_axis(answers.scores, answers.labels[:, None], axis=1)
        # the label's own output is one of those that are not lower
        rank_B = (answers.scores >= given_B1).sum(axis=1)
        return float(((rank_B <= HIGHEST) & answers.valid).mean())


METRIC = TopFive()
