"""The protocol with workers that only pretend: order, rounds, the A/A pair, failures, and that every worker ends."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from bench_builders import record

from bench.measurement import Measurement, Settings
from bench.messages import Answer, Load, Loaded, Request, Sample, Sampled, Warm, Warmed
from bench.process import Worker, WorkerError
from bench.protocol import Condition, Entry, calls_per_turn, measure, settle_calls, steps, turns

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = Settings(rounds=6)
CONDITION = Condition(batch_size=1, threads=1, cpus=(0,), evaluation="set", whole_set=True)
ENTRIES = [
    Entry("slow", record("slow", "dense", 0.0, "native")),
    Entry("base", record("base", "dense", 0.0, "onnxruntime")),
    Entry("fast", record("fast", "st3", 0.9, "native")),
]
LATENCY_MS = {"slow": 20.0, "base": 10.0, "fast": 4.0}


class FakeWorker(Worker):
    """Answers at once and writes down what happens; ``fail`` says at which request it fails, by folder."""

    def __init__(self, log: list[tuple[str, str]], fail: dict[tuple[str, str], int]) -> None:
        self.log, self.fail = log, fail
        self.folder = "?"
        self.asked: Counter[str] = Counter()
        self.running = True
        self.closed = 0

    def ask(self, request: Request, timeout_s: float) -> Answer:
        assert self.running, f"{self.folder} was asked while it was stopped"
        assert not self.closed, f"{self.folder} was asked after its end"
        if isinstance(request, Load):
            self.folder = request.artifact
        what = request.metric if isinstance(request, Sample) else type(request).__name__
        self.log.append((self.folder, what))
        self.asked[what] += 1
        if self.asked[what] == self.fail.get((self.folder, what)):
            raise WorkerError(f"{self.folder} broke at {what}")
        if isinstance(request, Load):
            return Loaded(cpus=request.cpus)
        if isinstance(request, Warm):
            return Warmed(latency_ms=LATENCY_MS[self.folder], calls=3, stable=self.folder != "slow")
        return Sampled(samples=[LATENCY_MS[self.folder]] * (request.calls or 1))

    def suspend(self) -> None:
        self.running = False

    def resume(self) -> None:
        self.running = True

    def close(self) -> None:
        self.closed += 1


class Bench:
    """Runs ``measure`` with fake workers and keeps everything that they saw."""

    def __init__(self, fail: dict[tuple[str, str], int] | None = None) -> None:
        self.log: list[tuple[str, str]] = []
        self.workers: list[FakeWorker] = []
        self.steps = 0
        self.fail = fail or {}

    def spawn(self) -> FakeWorker:
        self.workers.append(FakeWorker(self.log, self.fail))
        return self.workers[-1]

    def advance(self, text: str) -> None:
        self.steps += 1

    def run(self, advance: Callable[[str], None] | None = None) -> dict[tuple[str, str, bool], Measurement]:
        done = measure(ENTRIES, CONDITION, SETTINGS, self.spawn, advance or self.advance)
        return {(m.artifact, m.metric, m.control): m for m in done}


def test_turns_rotate_and_reverse() -> None:
    assert turns(3, 4) == [[0, 1, 2], [0, 2, 1], [2, 0, 1], [2, 1, 0]]
    assert turns(0, 2) == [[], []]
    for order in turns(5, 17):
        assert sorted(order) == [0, 1, 2, 3, 4]


def test_no_artifact_is_always_first_or_always_behind_the_same() -> None:
    orders = turns(4, 40)
    assert max(Counter(order[0] for order in orders).values()) <= 20
    before = Counter((order[i - 1], order[i]) for order in orders for i in range(1, 4) if order[i] == 2)
    assert len(before) >= 2


def test_every_artifact_has_every_round_and_they_interleave() -> None:
    bench = Bench()
    done = bench.run()
    for name, calls in (("slow", 2), ("base", 4), ("fast", 10)):
        assert [len(turn) for turn in done[name, "latency", False].samples] == [calls] * 6
    rounds = [folder for folder, what in bench.log if what == "latency"]
    assert len(rounds) == 4 * 6
    for number in range(6):
        assert Counter(rounds[4 * number : 4 * number + 4]) == {"slow": 1, "base": 2, "fast": 1}


def test_everything_is_warm_before_the_first_round_and_the_rest_comes_after_the_last() -> None:
    bench = Bench()
    bench.run()
    what = [what for _, what in bench.log]
    first, last = what.index("latency"), len(what) - 1 - what[::-1].index("latency")
    assert set(what[:first]) == {"Load", "Warm"}
    assert set(what[last + 1 :]) == {"memory", "accuracy", "size"}
    assert what.index("memory") < what.index("accuracy")


def test_the_control_is_the_fastest_dense_artifact_in_a_process_of_its_own() -> None:
    bench = Bench()
    done = bench.run()
    assert [key for key in done if key[2]] == [("base", "latency", True)]
    assert [worker.folder for worker in bench.workers] == ["slow", "base", "fast", "base"]
    assert len(done["base", "latency", True].samples) == 6


def test_an_unstable_warm_up_is_recorded() -> None:
    done = Bench().run()
    assert [key[0] for key, m in done.items() if not m.stable and key[1] == "latency"] == ["slow"]


@pytest.mark.parametrize(("what", "rounds"), [("Load", 0), ("Warm", 0), ("latency", 3), ("accuracy", 6)])
def test_a_failing_worker_is_recorded_and_hides_nobody(what: str, rounds: int) -> None:
    # "fast" is nobody's control, so that the fourth latency request is its fourth round
    bench = Bench({("fast", what): 4 if what == "latency" else 1})
    done = bench.run()
    failed = done["fast", "latency", False]
    assert failed.failure == f"fast broke at {what}"
    assert len(failed.samples) == rounds
    for name in ("slow", "base"):
        assert done[name, "latency", False].failure is None
        assert len(done[name, "latency", False].samples) == 6
        assert done[name, "accuracy", False].samples == ((LATENCY_MS[name],),)


def test_if_all_fail_all_are_recorded_and_there_is_no_control() -> None:
    bench = Bench({(name, "Load"): 1 for name in LATENCY_MS})
    done = bench.run()
    assert {m.failure for m in done.values()} == {f"{name} broke at Load" for name in LATENCY_MS}
    assert len(bench.workers) == 3


def test_every_worker_is_ended_even_on_ctrl_c() -> None:
    bench = Bench()

    def interrupt(text: str) -> None:
        if text == "round 2 of 6":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(interrupt)
    assert len(bench.workers) == 4
    assert all(worker.closed for worker in bench.workers)


def test_steps_are_as_many_as_announced() -> None:
    bench = Bench()
    bench.run()
    assert bench.steps == steps(len(ENTRIES), SETTINGS, whole_set=True)


def test_calls_fill_a_turn_within_bounds() -> None:
    settings = Settings(turn_s=0.04, calls_per_turn_max=250)
    assert calls_per_turn(4.0, settings) == 10
    assert calls_per_turn(100.0, settings) == 1
    assert calls_per_turn(0.001, settings) == 250
    assert calls_per_turn(0.0, settings) == 250


def test_a_turn_of_several_calls_settles_first() -> None:
    settings = Settings(settle_fraction=0.1)
    assert [settle_calls(calls, settings) for calls in (1, 2, 10, 30)] == [0, 1, 1, 3]
