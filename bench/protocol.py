"""How one condition is measured: every artifact warm in its own process, then taking turns, round after round.

The machine is shared and its speed drifts by tens of per cent within minutes. Artifacts that are measured one after
the other would inherit that drift as a difference; artifacts that take short turns share it, and their ratio within
one round does not contain it. Only one worker runs at a time, the others are stopped.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, final

import msgspec

from bench.measurement import ArtifactRecord, Measurement, Settings, is_dense
from bench.messages import Load, Loaded, Sample, Sampled, Warm, Warmed
from bench.metric import load_metric, metric_names
from bench.process import Worker, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ANSWER_TIMEOUT_S = 120.0
WHOLE_SET_TIMEOUT_S = 3600.0


class Entry(msgspec.Struct, frozen=True):
    """An artifact to measure: where it lies, and its record."""

    folder: str
    record: ArtifactRecord


class Condition(msgspec.Struct, frozen=True):
    """What the artifacts of one group share. ``whole_set``: also sample the metrics that are due once per artifact."""

    batch_size: int
    threads: int
    cpus: tuple[int, ...]
    evaluation: str
    whole_set: bool


@final
class Participant:
    """One worker's way through a condition: what it has measured so far, and why it stopped if it did."""

    def __init__(self, entry: Entry, worker: Worker, control: bool = False) -> None:
        self.entry = entry
        self.worker = worker
        self.control = control
        self.cpus: tuple[int, ...] = ()
        self.stable = True
        self.latency_ms = 0.0
        self.samples: dict[str, list[tuple[float, ...]]] = {}
        self.failure: str | None = None

    def has(self, metric: str) -> bool:
        """Whether a metric can be sampled of this artifact."""
        return self.entry.record.target.device != "cpu" or not load_metric(metric).device_only

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let the worker run for the length of the block; a failure ends its part and nobody else's."""
        try:
            self.worker.resume()
            yield
            self.worker.suspend()
        except WorkerError as error:
            self.failure = str(error)
            self.worker.close()

    def load(self, condition: Condition, settings: Settings) -> None:
        """Have the worker load the artifact."""
        request = Load(
            artifact=self.entry.folder,
            evaluation=condition.evaluation,
            batch_size=condition.batch_size,
            threads=condition.threads,
            cpus=condition.cpus,
            seed=settings.seed,
            engine=self.entry.record.engine,
        )
        with self.turn():
            answer = self.worker.ask(request, ANSWER_TIMEOUT_S)
            assert isinstance(answer, Loaded), answer
            self.cpus = answer.cpus

    def warm(self, settings: Settings) -> None:
        """Warm up, and learn how many calls make a turn."""
        request = Warm(
            window_s=settings.warm_window_s, limit_s=settings.warm_limit_s, tolerance=settings.warm_tolerance
        )
        with self.turn():
            answer = self.worker.ask(request, ANSWER_TIMEOUT_S)
            assert isinstance(answer, Warmed), answer
            self.latency_ms, self.stable = answer.latency_ms, answer.stable

    def sample(self, metric: str, calls: int, settle: int) -> None:
        """Take one turn's samples; ``calls`` 0 means the whole evaluation set."""
        timeout_s = ANSWER_TIMEOUT_S if calls else WHOLE_SET_TIMEOUT_S
        with self.turn():
            answer = self.worker.ask(Sample(metric=metric, calls=calls, settle=settle), timeout_s)
            assert isinstance(answer, Sampled), answer
            self.samples.setdefault(metric, []).append(tuple(answer.samples))


def measure(
    entries: Sequence[Entry],
    condition: Condition,
    settings: Settings,
    spawn: Callable[[], Worker],
    advance: Callable[[str], None],
) -> list[Measurement]:
    """Measure the artifacts of one condition side by side.

    Args:
        entries: artifacts that are built for the condition's batch size.
        condition: batch size, threads, CPUs and evaluation set.
        settings: the protocol's numbers.
        spawn: starts a worker process.
        advance: is told in words what begins, once per step of ``steps``.

    Returns:
        One record per artifact and metric; a worker that failed has a latency record with the failure.
    """
    participants: list[Participant] = []
    try:
        participants += [Participant(entry, spawn()) for entry in entries]
        _prepare(participants, condition, settings, advance)
        control = _control(participants, spawn)
        participants += control
        _prepare(control, condition, settings, advance)
        _rounds(participants, settings, advance)
        _once(participants, condition, advance)
    finally:
        for participant in participants:
            participant.worker.close()
    return [record for participant in participants for record in _records(participant, condition)]


def steps(artifacts: int, settings: Settings, whole_set: bool) -> int:
    """How often ``measure`` calls ``advance`` if nothing fails."""
    workers = artifacts + 1
    once = len(metric_names("condition")) + (len(metric_names("artifact")) if whole_set else 0)
    return workers * (1 + settings.rounds * len(metric_names("round"))) + artifacts * once


def turns(workers: int, rounds: int) -> list[list[int]]:
    """The order of the workers in each round.

    Each round begins one worker later, so that none is always first, and every other round runs backwards, so
    that none always follows the same neighbour.
    """
    orders = []
    for number in range(rounds):
        start = number % workers if workers else 0
        order = [*range(start, workers), *range(start)]
        orders.append(order if number % 2 == 0 else order[::-1])
    return orders


def calls_per_turn(latency_ms: float, settings: Settings) -> int:
    """As many calls as fill a turn: at least one, at most ``calls_per_turn_max``."""
    calls = round(settings.turn_s * 1000 / latency_ms) if latency_ms > 0 else settings.calls_per_turn_max
    return max(1, min(settings.calls_per_turn_max, calls))


def settle_calls(calls: int, settings: Settings) -> int:
    """Unrecorded calls at the start of a turn: at least one, for the one before has emptied the caches.

    None where one call fills the turn: it takes so long that the caches hardly matter, and would take twice as long.
    """
    return max(1, round(calls * settings.settle_fraction)) if calls > 1 else 0


def _prepare(
    participants: Sequence[Participant], condition: Condition, settings: Settings, advance: Callable[[str], None]
) -> None:
    # all are loaded before the first warms up: what is measured later must not be disturbed by somebody's start
    for participant in participants:
        participant.load(condition, settings)
    for participant in participants:
        advance(f"warming up {_label(participant)}")
        if participant.failure is None:
            participant.warm(settings)


def _control(participants: Sequence[Participant], spawn: Callable[[], Worker]) -> list[Participant]:
    """A second worker on the fastest dense artifact (the fastest of all where none is dense)."""
    alive = [participant for participant in participants if participant.failure is None]
    dense = [participant for participant in alive if is_dense(participant.entry.record)]
    if not alive:
        return []
    base = min(dense or alive, key=lambda participant: participant.latency_ms)
    return [Participant(base.entry, spawn(), control=True)]


def _rounds(participants: Sequence[Participant], settings: Settings, advance: Callable[[str], None]) -> None:
    metrics = metric_names("round")
    for number, order in enumerate(turns(len(participants), settings.rounds), start=1):
        for index in order:
            participant = participants[index]
            for metric in metrics:
                advance(f"round {number} of {settings.rounds}")
                if participant.failure is None and participant.has(metric):
                    calls = calls_per_turn(participant.latency_ms, settings)
                    participant.sample(metric, calls, settle_calls(calls, settings))


def _once(participants: Sequence[Participant], condition: Condition, advance: Callable[[str], None]) -> None:
    # memory first: running the whole evaluation set maps its file into the process
    metrics = metric_names("condition") + (metric_names("artifact") if condition.whole_set else [])
    for participant in participants:
        if participant.control:
            continue
        for metric in metrics:
            advance(f"{metric} of {_label(participant)}")
            if participant.failure is None:
                participant.sample(metric, calls=0, settle=0)


def _records(participant: Participant, condition: Condition) -> Iterator[Measurement]:
    samples = participant.samples
    if participant.failure is not None:
        samples = {"latency": samples.get("latency", [])}
    for metric, rounds in samples.items():
        yield Measurement(
            artifact=participant.entry.record.digest,
            metric=metric,
            unit=load_metric(metric).unit,
            batch_size=condition.batch_size,
            threads=condition.threads,
            samples=tuple(rounds),
            cpus=participant.cpus,
            control=participant.control,
            stable=participant.stable,
            failure=participant.failure,
        )


def _label(participant: Participant) -> str:
    record = participant.entry.record
    return f"{record.name} with {record.backend}"
