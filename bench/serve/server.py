"""A server under test: ``st3 serve`` as a process of its own, its workers, its memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

import msgspec

from bench.serve.client import Address
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import IO

_START_S = 120.0


class _Started(msgspec.Struct):
    url: str
    models: list[str]


@final
class Server:
    """A context: started and ready inside, ended with SIGTERM (``stop``) or, on the way out, with SIGKILL."""

    def __init__(self, *arguments: str) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        code = "from runtime.serve.command import serve; serve(prog_name='st3 serve')"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self.address = Address("", 0)
        self.models: list[str] = []

    def __enter__(self) -> Server:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(_START_S)
            text = self.log()
            self.__exit__(None, None, None)
            raise UserError(f"the server did not start: {text[-600:]}")
        started = msgspec.json.decode(line, type=_Started)
        parts = urlsplit(started.url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.address, self.models = Address(parts.hostname, parts.port), started.models
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()

    @property
    def pid(self) -> int:
        """The front's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the front lives."""
        return self._process.poll() is None

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def rss_bytes(self) -> dict[str, int]:
        """Resident memory of the front and of all its workers together."""
        return {"front": _rss(self.pid), "workers": sum(_rss(pid) for pid in self.workers())}

    def signal(self, number: signal.Signals) -> None:
        """Send the front a signal."""
        self._process.send_signal(number)

    def kill_worker(self) -> int:
        """``kill -9`` one worker; its process id."""
        pid = self.workers()[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait(self, seconds: float) -> int:
        """The exit status; raises ``subprocess.TimeoutExpired`` where there is none in time."""
        return self._process.wait(seconds)

    def log(self) -> str:
        """What it has written to stderr."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Ask again and again until the answer is yes; an ``AssertionError`` says what did not come."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.02)


def _rss(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0  # it ended since
    return pages * os.sysconf("SC_PAGE_SIZE")
