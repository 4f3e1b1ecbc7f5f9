"""A request to stop (a scheduler's SIGTERM, Ctrl-C): the loop saves its state and ends with a code of its own."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final


class StoppedError(Exception):
    """The run ended early on request; its state is saved."""


@final
class Stop:
    """Whether a request has come, and by which signal."""

    def __init__(self) -> None:
        self.requested = False
        self.number: int = signal.SIGTERM

    def request(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: it only notes the request, which the loop sees between two steps.

        Raises:
            KeyboardInterrupt: the second Ctrl-C; whoever presses it again does not want to wait.
        """
        del frame
        if number == signal.SIGINT:
            if self.requested:
                raise KeyboardInterrupt
            print("saving the state after this step; Ctrl-C again stops at once", file=sys.stderr)  # noqa: T201
        self.requested, self.number = True, number

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process that the signal ended (143, 130): not complete, but it can go on."""
        return 128 + self.number


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Inside, SIGTERM and Ctrl-C ask the loop to stop; the handlers of before come back afterwards."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread handle signals
        return
    before = {number: signal.signal(number, stop.request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
