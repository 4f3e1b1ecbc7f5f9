"""The front's side of one model's worker processes: starts them, hands them batches, replaces those that die."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, final

import msgspec
import numpy as np

from runtime.serve.protocol import RequestError
from runtime.serve.wire import PACKET_BYTES, Answer, Done, Failed, Ready, Shape, Start, views

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from numpy.typing import NDArray

    class Waiter(Protocol):
        """One request's rows, and who waits for the outputs. ``attempts`` counts the workers that died of it."""

        rows: NDArray[np.float32]
        attempts: int

        def finish(self, outputs: Sequence[NDArray[np.float32]] | RequestError) -> None:
            """Hand over the outputs in the manifest's order, or why there are none."""


log = logging.getLogger("st3.serve")

_LONGEST_PAUSE_S = 5.0  # between two starts of a worker that does not come up
_DECODER = msgspec.json.Decoder(Answer)


class PoolEvents(msgspec.Struct, frozen=True):
    """What a pool tells its model.

    Attributes:
        idle: a worker can take a batch.
        ran: a batch ran: rows and milliseconds.
        died: these requests were with a worker when it died; they may be tried again.
        restarted: a worker is started in a dead one's place.
    """

    idle: Callable[[], None]
    ran: Callable[[int, float], None]
    died: Callable[[Sequence[Any]], None]
    restarted: Callable[[], None]


@final
class Worker:
    """One process, its socket and the memory that it shares with the front. It runs one batch at a time."""

    def __init__(self, start: Start, shape: Shape, ended: Callable[[Worker], None], events: PoolEvents) -> None:
        self._loop = asyncio.get_running_loop()
        self._events = events
        self._ended = ended
        self._batch: Sequence[Waiter] = ()
        self._watchdog: asyncio.TimerHandle | None = None
        self.ready: asyncio.Future[str] = self._loop.create_future()
        """Done when the worker has loaded, with an empty line, or with the line of why it has not."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = os.memfd_create("st3-serve")
        try:
            os.ftruncate(fd, shape.size_bytes)
            self._inputs, self._outputs = views(mmap.mmap(fd, shape.size_bytes), shape)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runtime.serve.worker", str(theirs.fileno()), str(fd)],
                pass_fds=(theirs.fileno(), fd),
                stdin=subprocess.DEVNULL,
            )
        finally:
            os.close(fd)
            theirs.close()
        self._channel.setblocking(False)
        self._channel.send(msgspec.json.encode(start))
        self._loop.add_reader(self._channel, self._on_packet)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def loaded(self) -> bool:
        """Whether its engine was loaded and warm once."""
        return self.ready.done() and not self.ready.result()

    @property
    def running(self) -> bool:
        """Whether it runs a batch."""
        return bool(self._batch)

    @property
    def idle(self) -> bool:
        """Whether it can take a batch now."""
        return self.loaded and not self._batch and self._channel.fileno() >= 0

    def run(self, batch: Sequence[Waiter], limit_s: float) -> None:
        """Run a batch; each waiter is finished when it has run. A run past the limit ends the process."""
        start = 0
        for waiter in batch:
            self._inputs[start : start + len(waiter.rows)] = waiter.rows
            start += len(waiter.rows)
        self._batch = batch
        self._watchdog = self._loop.call_later(limit_s, self._overdue, limit_s)
        try:
            self._channel.send(b"%d" % start)
        except OSError:
            self._end()

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._channel.close()
        self._process.kill()
        self._process.wait()
        if not self.ready.done():
            self.ready.set_result("its worker process ended while it loaded the artifact")

    def _on_packet(self) -> None:
        try:
            packet = self._channel.recv(PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._end()
            return
        answer = _DECODER.decode(packet)
        if isinstance(answer, Ready):
            self.ready.set_result("")
            self._events.idle()
        elif not self.ready.done():
            assert isinstance(answer, Failed), answer
            self.ready.set_result(answer.reason)
        else:
            self._finish(answer)

    def _finish(self, answer: Answer) -> None:
        batch, self._batch = self._batch, ()
        self._stop_watchdog()
        if isinstance(answer, Failed):
            log.error("a batch failed: %s", answer.reason)
            for waiter in batch:
                waiter.finish(RequestError(500, f"the engine failed: {answer.reason}"))
        elif isinstance(answer, Done):
            rows = sum(len(waiter.rows) for waiter in batch)
            # a copy: the next batch overwrites the shared memory
            outputs = [output[:rows].copy() for output in self._outputs]
            self._events.ran(rows, answer.run_ms)
            start = 0
            for waiter in batch:
                waiter.finish([output[start : start + len(waiter.rows)] for output in outputs])
                start += len(waiter.rows)
        self._events.idle()

    def _overdue(self, limit_s: float) -> None:
        log.error("worker %d has run for more than %g s; it is ended", self.pid, limit_s)
        self._end()

    def _end(self) -> None:
        """The process is dead, or is to be: its batch goes back."""
        batch, self._batch = self._batch, ()
        self._stop_watchdog()
        self.close()
        if batch:
            self._events.died(batch)
        self._ended(self)

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None


@final
class Pool:
    """The worker processes of one version of a model."""

    def __init__(self, start: Start, shape: Shape, workers: int, run_limit_s: float, events: PoolEvents) -> None:
        self._start, self._shape, self._events = start, shape, events
        self._run_limit_s = run_limit_s
        self._wanted = workers
        self._workers: list[Worker] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [worker.pid for worker in self._workers]

    @property
    def ready(self) -> int:
        """How many workers are loaded and warm."""
        return sum(worker.loaded for worker in self._workers)

    async def open(self) -> None:
        """Start all workers and wait until they are warm; raises ``RequestError`` where the first does not come up."""
        try:
            for _ in range(self._wanted):
                self._workers.append(self._spawn())
            reasons = await asyncio.gather(*(worker.ready for worker in self._workers))
        except (asyncio.CancelledError, OSError):
            self.close()
            raise
        failed = [reason for reason in reasons if reason]
        if failed:
            self.close()
            raise RequestError(400, failed[0])

    def idle_worker(self) -> Worker | None:
        """A worker that can take a batch now."""
        return next((worker for worker in self._workers if worker.idle), None)

    def run(self, worker: Worker, batch: Sequence[Waiter]) -> None:
        """Hand a batch to a worker that is idle."""
        worker.run(batch, self._run_limit_s)

    async def drain(self) -> None:
        """Wait until no worker runs a batch, then end them all."""
        while not self._closed and any(worker.running for worker in self._workers):
            await asyncio.sleep(0.01)
        self.close()

    def close(self) -> None:
        """End all workers; what they run is lost."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _spawn(self) -> Worker:
        return Worker(self._start, self._shape, self._replace, self._events)

    def _replace(self, worker: Worker) -> None:
        """Another one in the place of a worker that died; whoever waits for one that loads hears of it by ``ready``."""
        if self._closed or not worker.loaded or worker not in self._workers:
            return
        self._workers.remove(worker)
        log.warning("worker %d of %s died; another one is started", worker.pid, self._start.path)
        task = asyncio.ensure_future(self._restart())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restart(self) -> None:
        pause_s = 0.05
        while not self._closed:
            self._events.restarted()
            try:
                worker = self._spawn()
            except OSError as error:
                reason = f"no process could be started ({error})"
            else:
                self._workers.append(worker)  # from here on close() ends it too
                reason = await worker.ready
                if not reason or self._closed:
                    return
                self._workers.remove(worker)
                worker.close()
            log.error("a worker of %s does not start: %s", self._start.path, reason)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
