"""The server scenario: the highest rate of random arrivals at which the slowest in a hundred stays within a bound.

As in MLPerf Inference (Reddi et al., ISCA 2020), arrivals are a Poisson process and the bound is on a high percentile.
What differs: p99 is always meant, a trial has hundreds or thousands of pictures and not 270336, the rate is searched
for in a few trials and not submitted, and there is one process with one queue, without a load generator of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure.messages import Serve
from bench.measurement import Served
from bench.report.intervals import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.measure.participant import Condition, Participant
    from bench.measurement import Settings

PERCENTILE = 0.99
TRIALS = 7
TRIAL_S = 2.0
PICTURES_MIN, PICTURES_MAX = 100, 4000
FIRST = 0.7
"""Of what the artifact does without a pause: the rate of the first trial."""
PATIENCE = 10.0
"""Bounds that the first in the queue waits before a trial is given up."""
UNBOUND_PATIENCE_S = 5.0
_TIMEOUT_S = 300.0


def search(participant: Participant, condition: Condition, settings: Settings) -> list[Served]:
    """All trials, in the order in which they were made: one at a given rate, or a search by halving."""
    if settings.server_rate_per_s is not None:
        return _trial(participant, condition, settings, settings.server_rate_per_s)
    assert settings.server_bound_ms is not None, "the command asks for a bound or a rate"
    most = condition.batch_size * 1000 / participant.latency_ms
    trials: list[Served] = []
    low, high, share = 0.0, 1.0, FIRST
    for _ in range(TRIALS):
        made = _trial(participant, condition, settings, share * most)
        if not made:
            break
        trials += made
        low, high = (share, high) if holds(made[0]) else (low, share)
        share = (low + high) / 2
    return trials


def holds(trial: Served) -> bool:
    """Whether p99 is within the bound and every picture was answered."""
    if trial.dropped or not trial.latencies_ms:
        return False
    return trial.bound_ms is None or percentile(trial.latencies_ms, PERCENTILE) <= trial.bound_ms


def best(trials: Iterable[Served]) -> Served | None:
    """The trial of the highest rate that holds; ``None`` where none does."""
    return max((trial for trial in trials if holds(trial)), key=lambda trial: trial.rate_per_s, default=None)


def _trial(participant: Participant, condition: Condition, settings: Settings, rate_per_s: float) -> list[Served]:
    bound_ms = settings.server_bound_ms
    request = Serve(
        rate_per_s=rate_per_s,
        pictures=min(PICTURES_MAX, max(PICTURES_MIN, round(rate_per_s * TRIAL_S))),
        patience_s=UNBOUND_PATIENCE_S if bound_ms is None else PATIENCE * bound_ms / 1000,
        seed=settings.seed,
    )
    answer = participant.serve(request, _TIMEOUT_S)
    if answer is None:
        return []
    return [
        Served(
            artifact=participant.entry.record.digest,
            batch_size=condition.batch_size,
            threads=condition.threads,
            rate_per_s=rate_per_s,
            bound_ms=bound_ms,
            latencies_ms=answer.latencies_ms,
            achieved_per_s=len(answer.latencies_ms) / answer.seconds if answer.seconds > 0 else 0.0,
            dropped=answer.dropped,
        )
    ]
