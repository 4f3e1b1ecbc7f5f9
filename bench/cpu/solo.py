"""Asks one artifact something while nothing else runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure.messages import Profile, Warm
from bench.measure.participant import ANSWER_TIMEOUT_S, Participant
from bench.measure.process import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measure.messages import Answer, Request
    from bench.measure.participant import Condition, Entry
    from bench.measure.process import Worker
    from bench.measurement import Settings


def ask(
    entry: Entry, condition: Condition, settings: Settings, request: Request, spawn: Callable[[], Worker]
) -> Answer:
    """Load the artifact in a process of its own, ask, and end the process; to be timed it is warmed up first.

    Raises:
        WorkerError: the artifact cannot be loaded, or the request failed.
    """
    worker = spawn()
    try:
        participant = Participant(entry, worker)
        participant.load(condition, settings)
        if participant.failure is not None:
            raise WorkerError(participant.failure)
        worker.resume()
        if isinstance(request, Profile):
            worker.ask(Warm(settings.warm_window_s, settings.warm_limit_s, settings.warm_tolerance), ANSWER_TIMEOUT_S)
        return worker.ask(request, ANSWER_TIMEOUT_S)
    finally:
        worker.close()
