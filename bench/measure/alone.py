"""What a worker is asked while nothing else runs, and without an artifact: what the harness itself costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure.messages import Idle, Idled
from bench.measure.process import WorkerError
from bench.measurement import Harness, Missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measure.process import Worker

CALLS, ROUNDS = 2000, 15
_TIMEOUT_S = 60.0


def measure_harness(cpus: tuple[int, ...], spawn: Callable[[], Worker]) -> Harness | Missing:
    """Time calls of an engine that does nothing, in a worker process like that of any artifact."""
    worker = spawn()
    try:
        answer = worker.ask(Idle(CALLS, ROUNDS, cpus), _TIMEOUT_S)
    except WorkerError as error:
        return Missing("harness", str(error))
    finally:
        worker.close()
    assert isinstance(answer, Idled), answer
    return Harness(answer.samples_us, answer.loop_us)
