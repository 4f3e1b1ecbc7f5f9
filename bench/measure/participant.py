"""One artifact in one process, on its way through a condition."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, final

import msgspec

from bench.measure.messages import (
    Answered,
    Load,
    Loaded,
    Predict,
    Predicted,
    Profile,
    Profiled,
    Sample,
    Sampled,
    Serve,
    Unavailable,
    Warm,
    Warmed,
)
from bench.measure.process import WorkerError
from bench.measurement import ArtifactRecord, Missing, Turn
from bench.metric import load_metric
from bench.naming import engine_label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.measure.messages import Answer, Request
    from bench.measure.process import Worker
    from bench.measurement import Settings

ANSWER_TIMEOUT_S = 120.0
WHOLE_SET_TIMEOUT_S = 3600.0


class Entry(msgspec.Struct, frozen=True):
    """An artifact to measure: where it lies (a folder, or a yardstick's file), and its record."""

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
    """A worker process with what the bench knows of it, and why it stopped if it did."""

    def __init__(self, entry: Entry, worker: Worker, control: int = 0) -> None:
        self.entry = entry
        self.worker = worker
        self.control = control
        self.cpus: tuple[int, ...] = ()
        self.stable = True
        self.latency_ms = 0.0
        self.failure: str | None = None

    @property
    def label(self) -> str:
        """The artifact in words."""
        record = self.entry.record
        return f"{record.name} with {engine_label(record.backend, record.target.dtype)}"

    def is_alive(self) -> bool:
        """Whether it has not failed."""
        return self.failure is None

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
            dtype=self.entry.record.target.dtype,
        )
        answer = self._ask(request)
        if answer is not None:
            assert isinstance(answer, Loaded), answer
            self.cpus = answer.cpus

    def warm(self, settings: Settings) -> None:
        """Warm up, and learn how many calls make a turn."""
        answer = self._ask(Warm(settings.warm_window_s, settings.warm_limit_s, settings.warm_tolerance))
        if answer is not None:
            assert isinstance(answer, Warmed), answer
            self.latency_ms, self.stable = answer.latency_ms, answer.stable

    def sample(self, request: Sample) -> Turn | Missing:
        """Take one metric's samples; a ``Turn`` without any has the failure."""
        timeout_s = ANSWER_TIMEOUT_S if request.calls else WHOLE_SET_TIMEOUT_S
        answer = self._ask(request, timeout_s)
        if isinstance(answer, Unavailable):
            return Missing(request.metric, answer.reason, self.entry.record.digest)
        assert answer is None or isinstance(answer, Sampled), answer
        return self.report(request.metric, () if answer is None else tuple(answer.samples))

    def report(self, metric: str = "latency", samples: tuple[float, ...] = ()) -> Turn:
        """What this participant has to say of a metric."""
        return Turn(
            artifact=self.entry.record.digest,
            metric=metric,
            unit=load_metric(metric).unit,
            samples=samples,
            control=self.control,
            stable=self.stable,
            failure=self.failure,
        )

    def predict(self) -> tuple[int, ...]:
        """The classes of the evaluation set; none where it cannot be run."""
        answer = self._ask(Predict(), WHOLE_SET_TIMEOUT_S)
        return answer.classes if isinstance(answer, Predicted) else ()

    def serve(self, request: Serve, timeout_s: float) -> Answered | None:
        """One trial of the server scenario; ``None`` where the worker failed."""
        answer = self._ask(request, timeout_s)
        assert answer is None or isinstance(answer, Answered), answer
        return answer

    def profile(self, calls: int) -> Profiled | None:
        """The network's steps; ``None`` where the worker failed."""
        answer = self._ask(Profile(calls))
        assert answer is None or isinstance(answer, Profiled), answer
        return answer

    def _ask(self, request: Request, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer | None:
        answer: Answer | None = None
        with self.turn():
            answer = self.worker.ask(request, timeout_s)
        # the failure of a worker ends the block without an answer
        return answer  # noqa: RET504
