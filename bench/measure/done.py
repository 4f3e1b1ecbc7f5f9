"""What of a condition has been measured already, so that an interrupted session goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bench.measurement import Measurement, Missing, Round, Served, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measurement import Record, Settings


class Done(msgspec.Struct, frozen=True):
    """Of one condition.

    Attributes:
        rounds: finished rounds of latency, over all launches.
        launches: launches that were begun.
        base: the artifact that the controls run; empty where none was chosen yet.
        failed: artifacts that failed and why; they are not tried again.
        once: ``(artifact, metric)`` of what is due once; the scenario ``server`` and ``steps`` count as metrics.
    """

    rounds: int = 0
    launches: int = 0
    base: str = ""
    failed: dict[str, str] = {}
    once: frozenset[tuple[str, str]] = frozenset()

    def shares(self, settings: Settings) -> list[int]:
        """Rounds of each launch that is still to come; one without a round where only the rest is missing."""
        left = max(0, settings.rounds - self.rounds)
        launches = max(1, min(settings.launches - self.launches, left))
        return [left * (index + 1) // launches - left * index // launches for index in range(launches)]


def done_of(records: Sequence[Record], batch_size: int, threads: int) -> Done:
    """Read off a session's records what one of its conditions has."""
    here = [r for r in records if getattr(r, "batch_size", 0) == batch_size and getattr(r, "threads", 0) == threads]
    rounds = [record for record in here if isinstance(record, Round)]
    turns = [turn for record in rounds for turn in record.turns]
    once = {(m.artifact, m.metric) for m in here if isinstance(m, Measurement)}
    once |= {(step.artifact, "steps") for step in here if isinstance(step, Step)}
    once |= {(trial.artifact, "server") for trial in here if isinstance(trial, Served)}
    return Done(
        rounds=sum(any(turn.metric == "latency" and turn.samples for turn in record.turns) for record in rounds),
        launches=len({record.launch for record in rounds}),
        base=next((turn.artifact for turn in turns if turn.control), ""),
        failed={turn.artifact: turn.failure for turn in turns if turn.failure is not None and not turn.control},
        once=frozenset(once | {(m.artifact, m.metric) for m in records if isinstance(m, Missing)}),
    )
