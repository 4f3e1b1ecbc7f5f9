"""What the loop tells: a progress bar on stderr and one JSON line per report."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.console import say
from runtime.errors import UserError

LINE_SECONDS = 30.0


class Report(msgspec.Struct, frozen=True):
    """Where the training stands. ``loss`` and ``accuracy`` are means over the training pictures since the last one."""

    step: int
    epoch: float
    loss: float
    accuracy: float
    sparsity: float
    threshold: float
    learning_rate: float
    seconds: float


@final
class Reporter:
    """A context manager that shows a bar and appends to a log; ``quiet`` shows no bar."""

    def __init__(self, log: Path, title: str, steps: int, quiet: bool = False) -> None:
        self._log = log
        self._steps, self._told = steps, time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._progress.add_task(title, total=steps, state="")

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, step: int) -> None:
        """Begin after ``step`` steps; lines that a killed attempt wrote after its last saved state are dropped."""
        kept = b""
        if step and self._log.is_file():
            for line in self._log.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n") or msgspec.json.decode(line, type=Report).step > step:
                    break
                kept += line
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(kept)
        self._progress.update(self._task, completed=step)

    def say(self, message: str) -> None:
        """A line above the bar."""
        say(self._progress.console, message)

    def report(self, report: Report) -> None:
        """Show and log one report.

        Raises:
            UserError: the log cannot be written, for instance because the disk is full.
        """
        try:
            _append(self._log, msgspec.json.encode(report) + b"\n")
        except OSError as error:
            raise UserError(f"{self._log} cannot be written ({error}); make room and go on with --resume") from error
        # short enough for the 80 columns of a terminal; the log has the rest
        state = f"loss {report.loss:.3f}  top-1 {report.accuracy:.3f}  sparsity {report.sparsity:.3f}"
        self._progress.update(self._task, completed=report.step, state=state)
        if not self._progress.disable and not self._progress.console.is_terminal and self._due():
            self.say(f"step {report.step} of {self._steps}, epoch {report.epoch:.2f}: {state}")

    def _due(self) -> bool:
        """In a file or a pipe no bar moves: every so often a line shows that the run is alive."""
        now = time.monotonic()
        if now - self._told < LINE_SECONDS:
            return False
        self._told = now
        return True


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(line)
