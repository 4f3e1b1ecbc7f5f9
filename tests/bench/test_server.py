"""The server scenario's arrivals and queue, and the harness alone, with engines whose time is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.environment import usable_cpus
from bench.measure.alone import measure_harness
from bench.measure.arrivals import arrival_times, serve
from bench.measure.idle import IdleEngine
from bench.measure.messages import Serve
from bench.measure.process import ProcessWorker
from bench.measure.server import best, holds
from bench.measure.surroundings import Watch, parse_stat
from bench.measurement import Harness, Served
from runtime.engine import Engine

CALL_S = 0.01


class SleepyEngine(Engine):
    """Takes 10 ms for whatever number of pictures, and writes down how many there were."""

    any_batch_size = True

    def __init__(self) -> None:
        super().__init__(IdleEngine().artifact, threads=1)
        self.counts: list[int] = []

    def _compute(self, given: NDArray[np.float32], results: list[NDArray[np.float32]]) -> None:
        time.sleep(CALL_S)
        self.counts.append(len(given))
        results[0][:] = 0


def request(rate_per_s: float, pictures: int, patience_s: float = 5.0) -> Serve:
    return Serve(rate_per_s=rate_per_s, pictures=pictures, patience_s=patience_s, seed=3)


def test_arrivals_are_a_poisson_process_and_repeat_with_their_seed() -> None:
    gaps = np.diff(arrival_times(50.0, 20_000, seed=1), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    # exponential: the deviation is the mean, and one gap in e is longer than that
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)
    assert (gaps > 1 / 50).mean() == pytest.approx(np.exp(-1), abs=0.02)
    assert np.array_equal(arrival_times(50.0, 100, 1), arrival_times(50.0, 100, 1))
    assert not np.array_equal(arrival_times(50.0, 100, 1), arrival_times(50.0, 100, 2))


def test_everybody_is_answered_in_turn_and_waits_for_those_before() -> None:
    engine = SleepyEngine()
    latencies_ms, seconds, dropped = serve(engine, np.zeros((1, 1, 1, 1), np.float32), request(80.0, 40))
    assert (len(latencies_ms), dropped) == (40, 0)
    assert engine.counts == [1] * 40
    assert min(latencies_ms) >= CALL_S * 1000
    assert seconds >= 40 * CALL_S


def test_those_who_wait_share_a_batch() -> None:
    engine = SleepyEngine()
    latencies_ms, _, dropped = serve(engine, np.zeros((8, 1, 1, 1), np.float32), request(2000.0, 60))
    assert (sum(engine.counts), len(latencies_ms), dropped) == (60, 60, 0)
    assert max(engine.counts) == 8
    assert len(engine.counts) < 30


def test_a_server_that_falls_behind_is_given_up() -> None:
    # 200 a second is twice what it can do: the queue grows by half a second each second
    latencies_ms, _, dropped = serve(
        SleepyEngine(), np.zeros((1, 1, 1, 1), np.float32), request(200.0, 400, patience_s=0.2)
    )
    assert dropped > 200
    assert len(latencies_ms) + dropped == 400


def test_the_best_rate_is_the_highest_that_holds() -> None:
    def trial(rate: float, slowest_ms: float, dropped: int = 0, bound: float | None = 10.0) -> Served:
        # 3 of 100: p99 is one of them
        return Served("a", 1, 1, rate, bound, (1.0,) * 97 + (slowest_ms,) * 3, rate, dropped)

    assert holds(trial(1, 9.0))
    assert not holds(trial(1, 11.0))
    assert not holds(trial(1, 9.0, dropped=1))
    assert holds(trial(1, 1e6, bound=None))
    found = best([trial(5, 9.0), trial(7, 9.5), trial(8, 12.0), trial(9, 1.0, dropped=3)])
    assert found is not None
    assert found.rate_per_s == 7
    assert best([trial(8, 12.0)]) is None


def test_the_harness_costs_less_than_20_us_a_call() -> None:
    found = measure_harness(usable_cpus()[:1], ProcessWorker)
    assert isinstance(found, Harness)
    assert len(found.samples_us) == len(found.loop_us) == 15
    # on a machine that others use, the quickest round is the harness and the others are the others
    assert 0 < min(found.samples_us) < 20
    assert min(found.samples_us) < min(found.loop_us) < 200


STAT = "cpu  100 20 30 800 50 6 4 7 11 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5\n"


def test_busy_and_stolen_time_are_told_apart() -> None:
    assert parse_stat(STAT, ticks=10) == pytest.approx((16.0, 0.7))
    assert parse_stat("intr 5\n", ticks=10) is None


def test_own_work_is_not_that_of_others() -> None:
    watch = Watch(gpus=False)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    found = watch.surroundings(1, 2, 3)
    assert (found.batch_size, found.threads, found.launch) == (1, 2, 3)
    assert found.seconds >= 0.29
    assert found.others_cpus is None or 0 <= found.others_cpus <= (len(usable_cpus()) + 64)
