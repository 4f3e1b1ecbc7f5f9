"""Expected calibration error: how far a network's confidence in its answers is from how often they are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from bench.metric import AnswerMetric

if TYPE_CHECKING:
    import numpy.typing as npt

    from bench.metric import Answers

BINS = 15


@final
class CalibrationError(AnswerMetric):
    """Outputs are taken for logits; a picture whose output holds a NaN is left out, for it has no confidence."""

    unit = "fraction"
    better = "lower"

    def score(self, answers: Answers) -> float:
        """See ``AnswerMetric.score``; 1 where every output holds a NaN."""
        valid_B = answers.valid
        if not valid_B.any():
            return 1.0
        scores_BN = answers.scores[valid_B].astype(np.float64)
        powers_BN = np.exp(scores_BN - scores_BN.max(axis=1, keepdims=True))
        confidence_B = powers_BN.max(axis=1) / powers_BN.sum(axis=1)
        right_B = (answers.classes == answers.labels)[valid_B]
        return expected_calibration_error(confidence_B, right_B)


def expected_calibration_error(confidence_B: npt.NDArray[np.float64], right_B: npt.NDArray[np.bool_]) -> float:
    """``sum_m |B_m| / n * |acc(B_m) - conf(B_m)|`` over 15 bins ``((m-1)/15, m/15]``.

    Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equations 2, 3 and 5.
    """
    bins_B = np.clip(np.ceil(confidence_B * BINS).astype(np.int64) - 1, 0, BINS - 1)
    # |B_m| cancels: what is summed is the difference of the two sums of a bin
    gaps = np.bincount(bins_B, right_B.astype(np.float64), BINS) - np.bincount(bins_B, confidence_B, BINS)
    return float(np.abs(gaps).sum() / len(confidence_B))


METRIC = CalibrationError()
