"""A bench whose workers only pretend to measure, and write down what they are asked."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bench_builders import record

from bench.measure.done import Done, done_of
from bench.measure.messages import (
    Answer,
    Answered,
    Load,
    Loaded,
    Predict,
    Predicted,
    Profile,
    Profiled,
    Request,
    Sample,
    Sampled,
    Serve,
    Unavailable,
    Warm,
    Warmed,
)
from bench.measure.participant import Condition, Entry
from bench.measure.process import Worker, WorkerError
from bench.measure.protocol import measure
from bench.measure.stage import Stage
from bench.measurement import Measurement, Record, Settings
from bench.measurement_file import merge
from runtime.steps import StepInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


SETTINGS = Settings(rounds=6)


CONDITION = Condition(batch_size=1, threads=1, cpus=(0,), evaluation="set", whole_set=True)


ENTRIES = [
    Entry("slow", record("slow", "dense", 0.0, "native")),
    Entry("base", record("base", "dense", 0.0, "onnxruntime")),
    Entry("fast", record("fast", "st3", 0.9, "native")),
]


RATE_HELD = 60.0


LATENCY_MS = {"slow": 20.0, "base": 10.0, "fast": 4.0}


class FakeWorker(Worker):
    """Answers at once and writes down what happens; ``fail`` says at which request it fails, by folder."""

    def __init__(self, log: list[tuple[str, str]], fail: dict[tuple[str, str], int]) -> None:
        self.log, self.fail = log, fail
        self.folder = "?"
        self.references: dict[str, tuple[int, ...]] = {}
        self.asked: Counter[str] = Counter()
        self.running = True
        self.closed = 0

    def ask(self, request: Request, timeout_s: float) -> Answer:
        assert self.running, f"{self.folder} was asked while it was stopped"
        assert not self.closed, f"{self.folder} was asked after its end"
        if isinstance(request, Load):
            self.folder = request.artifact
        what = request.metric if isinstance(request, Sample) else type(request).__name__
        if isinstance(request, Sample):
            self.references[request.metric] = request.reference
        self.log.append((self.folder, what))
        self.asked[what] += 1
        if self.asked[what] == self.fail.get((self.folder, what)):
            raise WorkerError(f"{self.folder} broke at {what}")
        if isinstance(request, Load):
            return Loaded(cpus=request.cpus)
        if isinstance(request, Warm):
            return Warmed(latency_ms=LATENCY_MS[self.folder], calls=3, stable=self.folder != "slow")
        if isinstance(request, Predict):
            return Predicted(classes=(1, 2, 3))
        if isinstance(request, Profile):
            return Profiled(steps=[StepInfo("conv", "dense")], samples_ms=[[0.5] * request.calls])
        if isinstance(request, Serve):
            waited = 1.0 if request.rate_per_s <= RATE_HELD else 99.0
            return Answered(latencies_ms=(waited,) * request.pictures, seconds=2.0, dropped=0)
        if isinstance(request, Sample) and request.metric == "energy":
            return Unavailable(reason="there is no counter")
        assert isinstance(request, Sample)
        return Sampled(samples=[LATENCY_MS[self.folder]] * (request.calls or 1))

    def suspend(self) -> None:
        self.running = False

    def resume(self) -> None:
        self.running = True

    def close(self) -> None:
        self.closed += 1


class Bench:
    """Runs ``measure`` with fake workers and keeps everything that they saw and that was written."""

    def __init__(self, fail: dict[tuple[str, str], int] | None = None, settings: Settings = SETTINGS) -> None:
        self.log: list[tuple[str, str]] = []
        self.workers: list[FakeWorker] = []
        self.records: list[Record] = []
        self.steps = 0
        self.fail = fail or {}
        self.settings = settings

    def spawn(self) -> FakeWorker:
        self.workers.append(FakeWorker(self.log, self.fail))
        return self.workers[-1]

    def advance(self, text: str) -> None:
        self.steps += 1

    def write(self, records: Iterable[Record]) -> None:
        self.records += records

    def run(
        self, advance: Callable[[str], None] | None = None, done: Done | None = None
    ) -> dict[tuple[str, str, bool], Measurement]:
        stage = Stage(CONDITION, self.settings, self.spawn, advance or self.advance, self.write)
        measure(ENTRIES, stage, done or Done())
        once = [record for record in self.records if isinstance(record, Measurement)]
        return {(m.artifact, m.metric, bool(m.control)): m for m in (*merge(self.records), *once)}

    def done(self) -> Done:
        return done_of(self.records, CONDITION.batch_size, CONDITION.threads)
