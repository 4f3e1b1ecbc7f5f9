"""The protocol with workers that only pretend: order, rounds, the A/A pair, failures, and that every worker ends."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from pretended import CONDITION, ENTRIES, LATENCY_MS, RATE_HELD, SETTINGS, Bench

from bench.measure.done import Done
from bench.measure.protocol import calls_per_turn, settle_calls, steps, turns
from bench.measurement import Measurement, Missing, Record, Round, Served, Settings, Step

if TYPE_CHECKING:
    from collections.abc import Iterable


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
    assert [m for m in done if m[1] == "throughput"] == []
    for number in range(6):
        assert Counter(rounds[4 * number : 4 * number + 4]) == {"slow": 1, "base": 2, "fast": 1}


def test_everything_is_warm_before_the_first_round_and_the_rest_comes_after_the_last() -> None:
    bench = Bench()
    bench.run()
    what = [what for _, what in bench.log]
    first, last = what.index("latency"), len(what) - 1 - what[::-1].index("latency")
    assert set(what[:first]) == {"Load", "Warm"}
    answers = {"accuracy", "accuracy_top5", "agreement", "calibration_error"}
    assert set(what[last + 1 :]) == {"memory", "energy", "load_time", "size", "Profile", "Predict"} | answers
    assert what.index("memory") < what.index("Predict")


def test_the_control_is_the_fastest_dense_artifact_in_a_process_of_its_own() -> None:
    bench = Bench()
    done = bench.run()
    assert [key for key in done if key[2]] == [("base", "latency", True)]
    assert done["base", "latency", True].control == 1
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
    assert bench.steps == steps(ENTRIES, CONDITION, SETTINGS, Done())
    assert steps(ENTRIES, CONDITION, SETTINGS, bench.done()) == 0


def test_calls_fill_a_turn_within_bounds() -> None:
    settings = Settings(turn_s=0.04, calls_per_turn_max=250)
    assert calls_per_turn(4.0, settings) == 10
    assert calls_per_turn(100.0, settings) == 1
    assert calls_per_turn(0.001, settings) == 250
    assert calls_per_turn(0.0, settings) == 250


def test_a_turn_of_several_calls_settles_first() -> None:
    settings = Settings(settle_fraction=0.1)
    assert [settle_calls(calls, settings) for calls in (1, 2, 10, 30)] == [0, 1, 1, 3]


SEVERAL = Settings(rounds=7, launches=3)


def test_launches_share_the_rounds_and_every_one_has_new_processes() -> None:
    bench = Bench(settings=SEVERAL)
    done = bench.run()
    assert len(bench.workers) == 3 * 4
    assert all(worker.closed for worker in bench.workers)
    for name in LATENCY_MS:
        assert done[name, "latency", False].launches == (0, 0, 1, 1, 2, 2, 2)
        assert done[name, "memory", False].launches == (0, 1, 2)
        assert len(done[name, "accuracy", False].samples) == 1
    assert [len(rounds) for rounds in done["base", "latency", True].by_launch] == [2, 2, 3]
    assert bench.steps == steps(ENTRIES, CONDITION, SEVERAL, Done())


def test_what_this_machine_cannot_give_is_said_once_per_artifact() -> None:
    bench = Bench(settings=SEVERAL)
    done = bench.run()
    missing = [record for record in bench.records if isinstance(record, Missing)]
    assert [(m.metric, m.artifact, m.reason) for m in missing] == [
        ("energy", name, "there is no counter") for name in LATENCY_MS
    ]
    assert not [key for key in done if key[1] == "energy"]


def test_answers_are_held_against_those_of_the_first_dense_artifact() -> None:
    bench = Bench()
    done = bench.run()
    assert [worker.folder for worker in bench.workers if worker.asked["Predict"]] == ["slow"]
    for worker in bench.workers[:3]:
        assert worker.references["agreement"] == (1, 2, 3)
        assert worker.references["accuracy"] == ()
    assert ("fast", "agreement", False) in done


def test_steps_of_native_are_timed_once() -> None:
    bench = Bench(settings=SEVERAL)
    bench.run()
    found = [record for record in bench.records if isinstance(record, Step)]
    assert [(step.artifact, step.kernel, len(step.samples_ms)) for step in found] == [
        ("slow", "dense", 20),
        ("fast", "dense", 20),
    ]


def test_the_offline_scenario_takes_its_turns_in_the_rounds() -> None:
    settings = Settings(rounds=6, scenarios=("single-stream", "offline"))
    bench = Bench(settings=settings)
    done = bench.run()
    assert len(done["fast", "throughput", False].samples) == 6
    assert bench.steps == steps(ENTRIES, CONDITION, settings, Done())


def test_the_server_s_rate_is_searched_for_by_halving() -> None:
    settings = Settings(rounds=6, scenarios=("single-stream", "server"), server_bound_ms=10.0)
    bench = Bench(settings=settings)
    bench.run()
    # base answers 100 pictures a second: 70, 35, 52.5, 61.25, ... and 60 is what holds
    rates = [t.rate_per_s for t in bench.records if isinstance(t, Served) and t.artifact == "base"]
    assert rates[:4] == pytest.approx([70.0, 35.0, 52.5, 61.25])
    assert max(rate for rate in rates if rate <= RATE_HELD) == pytest.approx(RATE_HELD, rel=0.03)
    # the slowest cannot come near the rate that holds, the fastest is far above it at first
    assert bench.steps == steps(ENTRIES, CONDITION, settings, Done())


@pytest.mark.parametrize("cut", range(1, 24))
def test_whatever_was_written_is_not_measured_again(cut: int) -> None:
    """The bench is killed after any record; the second one measures the rest, and together they have all."""
    first = Bench(settings=SEVERAL)

    class Killed(BaseException):
        pass

    def write(records: Iterable[Record]) -> None:
        first.records += records
        if len(first.records) >= cut:
            raise Killed

    first.write = write  # type: ignore[method-assign]
    with pytest.raises(Killed):
        first.run()
    second = Bench(settings=SEVERAL)
    second.records = list(first.records)
    done = second.run(done=first.done())
    for name in LATENCY_MS:
        timed = done[name, "latency", False]
        assert len(timed.samples) == SEVERAL.rounds
        assert len(set(timed.launches)) >= 2
        assert len(done[name, "accuracy", False].samples) == 1
    once = [(r.artifact, r.metric) for r in second.records if isinstance(r, Measurement)]
    assert len(once) == len(set(once))
    assert {r.artifact for r in second.records if isinstance(r, Step)} == {"slow", "fast"}
    # a control is of the artifact that it was of before
    assert len({t.artifact for r in second.records if isinstance(r, Round) for t in r.turns if t.control}) == 1


def test_what_has_failed_is_not_tried_again() -> None:
    bench = Bench({("fast", "latency"): 2}, SEVERAL)
    done = bench.run()
    assert done["fast", "latency", False].failure == "fast broke at latency"
    assert [worker.folder for worker in bench.workers].count("fast") == 1
    assert bench.done().failed == {"fast": "fast broke at latency"}
    assert steps(ENTRIES, CONDITION, SEVERAL, bench.done()) == 0
