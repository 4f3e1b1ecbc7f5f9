"""Runs the runs of a sweep as processes, several at a time, and writes down each result as it comes.

In the sweep's folder lie::

    sweep.jsonl                     one line per finished run
    checkpoints/NAME                the checkpoint of a finished run
    checkpoints/.NAME.training      the state of one that is not finished
    logs/NAME.log                   what the training last said, logs/NAME.out what it printed

The runs are told to stop (SIGTERM) when the sweep is interrupted, when its time is over and, by the system, when the
sweep is killed. Each saves its state then, and the same sweep command goes on from there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import final

import msgspec

from runtime.errors import UserError
from runtime.training_rows import SweepRow
from train.sweep_plan import Run, Sweep, checkpoint_of, command_of
from train.sweep_rows import append, row_of

TRAINER = (sys.executable, "-m", "train")
POLL_SECONDS = 0.2
GRACE_SECONDS = 40.0
"""For a run to save its state after SIGTERM, before it is killed."""

_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a run must not outlive the sweep
if os.getppid() != int(sys.argv[1]):
    sys.exit(128 + signal.SIGTERM)  # it died in between
os.execv(sys.argv[2], sys.argv[2:])
"""


class Failure(msgspec.Struct, frozen=True):
    """A run that ended badly, and the last thing it said."""

    name: str
    code: int
    reason: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of the runs of a sweep: new rows, failures, and the names of those that are not finished."""

    rows: tuple[SweepRow, ...]
    failures: tuple[Failure, ...]
    unfinished: tuple[str, ...]


class Pace(msgspec.Struct, frozen=True):
    """How the runs share the machine.

    Attributes:
        jobs: runs at a time.
        threads: CPU threads of each.
        budget: seconds after which no run starts and the running ones are stopped; ``None`` for no limit.
        keep_checkpoints: whether a finished run's checkpoint stays, or only its row.
        variables: environment variables for each run.
    """

    jobs: int
    threads: int
    budget: float | None = None
    keep_checkpoints: bool = True
    variables: dict[str, str] = {}


class Active(msgspec.Struct, frozen=True):
    """A run that is being trained."""

    run: Run
    process: subprocess.Popen[bytes]
    started: float


Watch = Callable[[Sequence[Active], int, int], None]
"""Called often with the active runs, the number of runs that ended and that of all."""


def run_sweep(sweep: Sweep, runs: Sequence[Run], pace: Pace, watch: Watch, trainer: Sequence[str] = TRAINER) -> Outcome:
    """Train every run that is given; one that fails does not stop the others.

    Raises:
        UserError: another sweep is at work in the folder.
    """
    (sweep.out / "logs").mkdir(parents=True, exist_ok=True)
    with _alone(sweep.out) as lock, _stop_requests() as stop:
        return _Runner(sweep, pace, watch, trainer, lock, stop).run(list(runs))


@final
class _Request:
    """Whether a signal asked the sweep to stop."""

    made = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT and SIGTERM."""
        del number, frame
        self.made = True


@final
class _Runner:
    def __init__(
        self, sweep: Sweep, pace: Pace, watch: Watch, trainer: Sequence[str], lock: int, stop: _Request
    ) -> None:
        self.sweep, self.pace, self.watch, self.trainer, self.lock, self.stop = sweep, pace, watch, trainer, lock, stop
        self.active: list[Active] = []
        self.rows: list[SweepRow] = []
        self.failures: list[Failure] = []
        self.unfinished: list[str] = []

    def run(self, waiting: list[Run]) -> Outcome:
        total, began = len(waiting), time.monotonic()
        try:
            while waiting or self.active:
                over = self.pace.budget is not None and time.monotonic() - began > self.pace.budget
                if over or self.stop.made:
                    break
                while waiting and len(self.active) < self.pace.jobs:
                    self.active.append(self._start(waiting.pop(0)))
                self._collect()
                self.watch(self.active, total - len(waiting) - len(self.active), total)
                time.sleep(POLL_SECONDS)
        finally:
            self._stop_all()
        self.unfinished += [run.name for run in waiting]
        return Outcome(tuple(self.rows), tuple(self.failures), tuple(self.unfinished))

    def _start(self, run: Run) -> Active:
        command = [*self.trainer, *command_of(self.sweep, run, self.pace.threads)]
        executable = shutil.which(command[0]) or command[0]
        wrapped = [sys.executable, "-c", _TIED, str(os.getpid()), executable, *command[1:]]
        with self._log(run, "out").open("wb") as printed, self._log(run, "log").open("wb") as said:
            process = subprocess.Popen(
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said,
                env={**os.environ, **self.pace.variables},
                pass_fds=(self.lock,),  # so that the folder is not free before the last run has ended
                start_new_session=True,  # Ctrl-C is for the sweep, which then asks the runs
            )
        return Active(run, process, time.monotonic())

    def _collect(self, stopping: bool = False) -> None:
        for active in list(self.active):
            code = active.process.poll()
            if code is None:
                continue
            self.active.remove(active)
            if code == 0:
                self._finish(active.run)
            elif stopping:
                self.unfinished.append(active.run.name)
            else:
                self.failures.append(Failure(active.run.name, code, self._last_words(active.run)))

    def _finish(self, run: Run) -> None:
        try:
            row = row_of(self.sweep, run, self._log(run, "out").read_bytes(), self.pace.jobs)
        except UserError as error:
            self.failures.append(Failure(run.name, 0, str(error)))
            return
        append(self.sweep.out, row)
        self.rows.append(row)
        for kind in ("out", "log"):
            self._log(run, kind).unlink(missing_ok=True)
        if not self.pace.keep_checkpoints:
            shutil.rmtree(checkpoint_of(self.sweep, run), ignore_errors=True)

    def _stop_all(self) -> None:
        """Ask every run to save its state and end; kill those that do not."""
        for active in self.active:
            active.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while self.active and time.monotonic() < deadline:
            self._collect(stopping=True)
            time.sleep(POLL_SECONDS / 4)
        for active in self.active:
            active.process.kill()
            active.process.wait()
        self._collect(stopping=True)

    def _log(self, run: Run, kind: str) -> Path:
        return self.sweep.out / "logs" / f"{run.name}.{kind}"

    def _last_words(self, run: Run) -> str:
        lines = self._log(run, "log").read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the folder's lock, which the runs inherit: free only when the last run of a killed sweep has ended too."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + GRACE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"another sweep, or a run of one that was killed, is at work in {folder}; wait for it, or "
                        f"give another --out"
                    ) from error
                time.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _stop_requests() -> Iterator[_Request]:
    """Inside, Ctrl-C and SIGTERM ask the sweep to stop."""
    request = _Request()
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
