"""How batches are made, without processes: a pool that is a list."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from runtime.cuts import cheapest_cut, run_rows
from runtime.serve.batching import Batcher, Waiting
from runtime.serve.protocol import RequestError


class FakePool:
    """One worker; a batch stays in ``batches`` until the test finishes it."""

    def __init__(self) -> None:
        self.batches: list[list[Waiting]] = []
        self.free = True

    def idle_worker(self) -> object | None:
        return self if self.free else None

    def run(self, worker: object, batch: list[Waiting]) -> None:
        self.free = False
        self.batches.append(batch)

    def finish(self, batcher: Batcher) -> None:
        for waiting in self.batches[-1]:
            waiting.finish(waiting.rows * 2)
        self.free = True
        batcher.wake()


def rows(count: int, value: float = 1.0) -> np.ndarray:
    return np.full((count, 2), value, np.float32)


def never() -> bool:
    return False


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def made(max_delay_s: float = 0.0, limit: int = 100, timeout_s: float = 30.0) -> tuple[Batcher, FakePool]:
    batcher, pool = Batcher(4, max_delay_s, limit, timeout_s), FakePool()
    batcher.pool = pool  # type: ignore[assignment]
    return batcher, pool


def test_what_comes_together_runs_together_up_to_the_largest_batch() -> None:
    async def scenario() -> None:
        batcher, pool = made()
        tasks = [asyncio.ensure_future(batcher.submit(rows(n), never)) for n in (1, 2, 2, 1)]
        await settle()
        assert [len(waiting.rows) for waiting in pool.batches[0]] == [1, 2]
        assert batcher.depth == 2
        pool.finish(batcher)
        await settle()
        assert [len(waiting.rows) for waiting in pool.batches[1]] == [2, 1]
        pool.finish(batcher)
        results = await asyncio.gather(*tasks)
        assert [len(result) for result in results] == [1, 2, 2, 1]
        assert all((result == 2).all() for result in results)
        batcher.close("done")

    asyncio.run(scenario())


def test_a_lonely_request_waits_for_company_but_not_longer_than_the_delay() -> None:
    async def scenario() -> None:
        batcher, pool = made(max_delay_s=0.05)
        first = asyncio.ensure_future(batcher.submit(rows(1), never))
        await settle()
        assert not pool.batches
        second = asyncio.ensure_future(batcher.submit(rows(1), never))
        await asyncio.sleep(0.2)
        assert len(pool.batches[0]) == 2
        pool.finish(batcher)
        await asyncio.gather(first, second)
        full = asyncio.ensure_future(batcher.submit(rows(4), never))
        await settle()
        assert len(pool.batches) == 2  # a full batch waits for nobody
        pool.finish(batcher)
        await full
        batcher.close("done")

    asyncio.run(scenario())


def test_a_full_queue_refuses_with_503_and_frees_again() -> None:
    async def scenario() -> None:
        batcher, pool = made(limit=4)
        pool.free = False
        tasks = [asyncio.ensure_future(batcher.submit(rows(2), never)) for _ in range(2)]
        await settle()
        with pytest.raises(RequestError, match="queue is full") as error:
            await batcher.submit(rows(1), never)
        assert error.value.status == 503
        pool.free = True
        batcher.wake()
        await settle()
        pool.finish(batcher)
        await asyncio.gather(*tasks)
        batcher.close("done")

    asyncio.run(scenario())


def test_nobody_waits_for_ever_and_who_hung_up_is_not_run() -> None:
    async def scenario() -> None:
        batcher, pool = made(timeout_s=0.1)
        pool.free = False
        with pytest.raises(RequestError, match=r"no worker was free for 0\.1 s"):
            await batcher.submit(rows(1), never)
        gone = asyncio.ensure_future(batcher.submit(rows(1), lambda: True))
        await settle()
        pool.free = True
        batcher.wake()
        await settle()
        assert not pool.batches
        assert gone.cancelled()
        batcher.close("done")

    asyncio.run(scenario())


def test_requests_of_a_dead_worker_go_first_and_alone_and_twice_at_most() -> None:
    async def scenario() -> None:
        batcher, pool = made()
        tasks = [asyncio.ensure_future(batcher.submit(rows(1, value), never)) for value in (1, 2, 3)]
        await settle()
        poison, innocent, third = pool.batches[0]
        late = asyncio.ensure_future(batcher.submit(rows(1, 4), never))
        pool.free = True
        batcher.again(pool.batches[0])
        await settle()
        assert pool.batches[1] == [poison]
        pool.free = True
        batcher.again([poison])  # it killed the second worker too
        await settle()
        assert pool.batches[2] == [innocent]
        pool.finish(batcher)
        await settle()
        assert pool.batches[3] == [third]
        pool.finish(batcher)
        await settle()
        pool.finish(batcher)
        results = await asyncio.gather(*tasks, late, return_exceptions=True)
        assert isinstance(results[0], RequestError)
        assert results[0].status == 503
        assert [float(result[0, 0]) for result in results[1:]] == [4, 6, 8]
        batcher.close("done")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("count", "run_ms", "expected"),
    [
        (1, {1: 1.0, 16: 4.0}, [1]),
        (4, {1: 1.0, 16: 4.1}, [1, 1, 1, 1]),
        (15, {1: 1.0, 16: 4.0}, [16]),
        (18, {1: 1.0, 16: 4.0}, [16, 1, 1]),
        (31, {1: 1.0, 16: 4.0}, [16, 16]),
        (5, {4: 1.0}, [4, 4]),
    ],
)
def test_rows_are_cut_the_cheapest_way(count: int, run_ms: dict[int, float], expected: list[int]) -> None:
    assert cheapest_cut(count, run_ms) == expected


@pytest.mark.parametrize("count", range(1, 10))
def test_cut_rows_give_the_outputs_of_the_whole(served: object, count: int) -> None:
    from runtime.engine import load

    engine = load(str(served))
    given = np.random.default_rng(count).standard_normal((count, 1, 8, 8)).astype(np.float32)
    expected = engine.run({"input": given})["output"]
    for run_ms in ({1: 1.0, 4: 1.0}, {4: 1.0}, {1: 1.0}):
        (found,) = run_rows(engine, cheapest_cut(count, run_ms), given)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
