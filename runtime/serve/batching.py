"""Dynamic batching: a bounded queue of requests, and the batches that are made of it when a worker is free."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, final

from runtime.serve.protocol import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from runtime.serve.pool import Pool

_MOST_ATTEMPTS = 2
_SWEEP_S = 0.25  # how often requests that waited too long are looked for


@final
class Waiting:
    """A request in the queue or with a worker. ``pool.Waiter`` says what a worker does with it."""

    __slots__ = ("_loop", "answer", "attempts", "began", "gone", "rows")

    def __init__(self, rows: NDArray[np.float32], gone: Callable[[], bool], loop: asyncio.AbstractEventLoop) -> None:
        self.rows = rows
        self.attempts = 0
        self.gone = gone
        self.began = loop.time()
        self.answer: asyncio.Future[Sequence[NDArray[np.float32]]] = loop.create_future()
        self._loop = loop

    def finish(self, outputs: Sequence[NDArray[np.float32]] | RequestError) -> None:
        """Wake whoever waits, if anybody still does."""
        if self.answer.done():
            return
        if isinstance(outputs, RequestError):
            self.answer.set_exception(outputs)
        else:
            self.answer.set_result(outputs)


@final
class Batcher:
    """The queue of one model. It stays while the model's workers are replaced by those of another version.

    A batch is what waits when a worker is free, up to ``max_batch`` rows. Below that the oldest request waits up to
    ``max_delay_s`` for others to join it.
    """

    def __init__(self, max_batch: int, max_delay_s: float, limit_rows: int, timeout_s: float) -> None:
        self.max_batch = max_batch
        self.pool: Pool | None = None
        self._max_delay_s = max_delay_s
        self._limit_rows = limit_rows
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Waiting] = deque()
        self._rows = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def depth(self) -> int:
        """Requests that wait for a worker."""
        return len(self._queue)

    async def submit(self, rows: NDArray[np.float32], gone: Callable[[], bool]) -> Sequence[NDArray[np.float32]]:
        """Each output for some rows, in the manifest's order.

        Args:
            rows: up to ``max_batch`` of them.
            gone: whether nobody waits for the answer any more; such a request is not run.

        Raises:
            RequestError: the queue is full, the request waited too long, or its worker died twice.
        """
        if self._rows + len(rows) > self._limit_rows:
            raise RequestError(503, f"the queue is full ({self._limit_rows} rows wait); try again later")
        waiting = Waiting(rows, gone, self._loop)
        self._queue.append(waiting)
        self._rows += len(rows)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        self.wake()
        return await waiting.answer

    def wake(self) -> None:
        """See to the queue soon: once for all that happens before the event loop comes to it."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def again(self, died: Sequence[Waiting]) -> None:
        """Requests whose worker died go first, each in a batch of its own: one that kills takes no other with it."""
        for waiting in reversed(died):
            waiting.attempts += 1
            if waiting.attempts < _MOST_ATTEMPTS:
                self._queue.appendleft(waiting)
                self._rows += len(waiting.rows)
            else:
                waiting.finish(RequestError(503, f"{_MOST_ATTEMPTS} workers died while they ran this request"))
        self.wake()

    async def emptied(self) -> None:
        """Wait until nothing waits for a worker."""
        while self._queue:
            await asyncio.sleep(0.01)

    def close(self, reason: str) -> None:
        """Answer all that wait with an error."""
        while self._queue:
            self._queue.popleft().finish(RequestError(503, reason))
        self._rows = 0

    def _pump(self) -> None:
        self._scheduled = False
        while self._queue and self.pool is not None:
            worker = self.pool.idle_worker()
            if worker is None:
                return
            due = self._queue[0].began + self._max_delay_s
            if self._rows < self.max_batch and self._loop.time() < due and not self._queue[0].attempts:
                self._wait_until(due)
                return
            batch = self._take()
            if batch:
                self.pool.run(worker, batch)

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            alone = bool(first.attempts)
            if batch and (alone or rows + len(first.rows) > self.max_batch):
                break
            self._queue.popleft()
            self._rows -= len(first.rows)
            if first.answer.done() or first.gone():
                first.answer.cancel()
                continue
            batch.append(first)
            rows += len(first.rows)
            if alone:
                break
        return batch

    def _wait_until(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self.wake)

    def _sweep(self) -> None:
        """Nobody waits for ever, even where no worker comes back."""
        oldest = self._loop.time() - self._timeout_s
        while self._queue and self._queue[0].began < oldest:
            waiting = self._queue.popleft()
            self._rows -= len(waiting.rows)
            waiting.finish(RequestError(503, f"no worker was free for {self._timeout_s:g} s; try again later"))
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep) if self._queue else None
