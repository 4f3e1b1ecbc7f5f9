"""The bench's handle on one worker process: start, ask, stop for others' turns, end."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, final

import msgspec

from bench.measure.messages import Answer, Failed, Request

if TYPE_CHECKING:
    from typing import IO

STDERR_TAIL = 600
END_S = 2.0


class WorkerError(Exception):
    """A worker failed, died or did not answer in time; the text says which and why."""


class Worker(ABC):
    """Whoever runs one artifact for the protocol."""

    @abstractmethod
    def ask(self, request: Request, timeout_s: float) -> Answer:
        """Send a request and wait for its answer; raises ``WorkerError`` if it fails or none comes."""

    @abstractmethod
    def suspend(self) -> None:
        """Take the processor away until ``resume``."""

    @abstractmethod
    def resume(self) -> None:
        """Give the processor back."""

    @abstractmethod
    def close(self) -> None:
        """End the worker, whatever state it is in."""


@final
class ProcessWorker(Worker):
    """``python -m bench.measure.worker`` in a session of its own: Ctrl-C reaches the bench and not the workers."""

    def __init__(self) -> None:
        # no `with`: the file lives as long as the worker, and close() closes it
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._pending = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=Path(__file__).resolve().parents[2],  # where -m finds this very package, installed or not
            start_new_session=True,
        )

    def ask(self, request: Request, timeout_s: float) -> Answer:
        """See ``Worker.ask``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
            line = self._read_line(timeout_s)
            answer: Answer = msgspec.json.decode(line, type=Answer)
        except (OSError, msgspec.MsgspecError) as error:
            raise WorkerError(f"the worker {self._death()}: {error}") from error
        if isinstance(answer, Failed):
            raise WorkerError(anonymous(answer.reason))
        return answer

    def suspend(self) -> None:
        """See ``Worker.suspend``: an idle thread pool may spin, and would take time from the one that is measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """See ``Worker.resume``."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """See ``Worker.close``: the end of its stdin lets it clean up; it is killed if that takes too long."""
        self.resume()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # a dead worker's pipe is broken
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=END_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = monotonic() + timeout_s
        while b"\n" not in self._pending:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - monotonic()))
            if not ready:
                raise WorkerError(f"the worker did not answer within {timeout_s:g} s")
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                raise WorkerError(f"the worker {self._death()}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _death(self) -> str:
        """What became of the process, with the end of what it wrote to stderr."""
        try:
            code = self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            return "closed its answers"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - STDERR_TAIL))
        tail = " ".join(self._stderr.read().decode(errors="replace").split())
        return f"{how}; it wrote: {anonymous(tail)}" if tail else how


def anonymous(text: str) -> str:
    """Shorten absolute paths to their last two parts: a record is published, a user's folders are not."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\":;,()]+/)+([^\s/'\":;,()]+/[^\s/'\":;,()]+)", r"\1", text)
