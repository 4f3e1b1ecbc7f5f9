"""What all parts of a condition's measurement share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bench.measurement import Round

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.measure.participant import Condition, Participant
    from bench.measure.process import Worker
    from bench.measurement import Record, Settings, Turn


class Stage(msgspec.Struct, frozen=True):
    """The condition, and whom to ask and tell.

    Attributes:
        condition: batch size, threads, CPUs and evaluation set.
        settings: the protocol's numbers.
        spawn: starts a worker process.
        advance: is told in words what begins, once per step of ``bench.measure.protocol.steps``.
        write: keeps records.
    """

    condition: Condition
    settings: Settings
    spawn: Callable[[], Worker]
    advance: Callable[[str], None]
    write: Callable[[Iterable[Record]], None]

    def write_round(self, launch: int, participants: Iterable[Participant], turns: Sequence[Turn]) -> None:
        """Keep what several participants gave; nothing where they gave nothing."""
        if turns:
            cpus = next((participant.cpus for participant in participants if participant.cpus), ())
            self.write([Round(self.condition.batch_size, self.condition.threads, launch, cpus, tuple(turns))])
