"""A request to stop (SIGTERM, as schedulers send it): the loop saves its state and ends with a code of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final

EXIT_CODE = 128 + signal.SIGTERM
"""143, what a shell reports for a process that SIGTERM ended: the run is not complete, but can go on."""


class StoppedError(Exception):
    """The run ended early on request; its state is saved."""


@final
class Stop:
    """Whether a request has come."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: it only notes the request, which the loop sees between two steps."""
        del number, frame
        self.requested = True


@contextmanager
def stop_on_sigterm() -> Iterator[Stop]:
    """Inside, SIGTERM asks the loop to stop; the handler of before comes back afterwards."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread handle signals
        return
    before = signal.signal(signal.SIGTERM, stop.request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
