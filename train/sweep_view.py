"""What a sweep shows while it runs: a bar per active run on a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from runtime.console import say
from train.sweep_plan import Sweep, checkpoint_of
from train.sweep_run import Active, Watch

_SECONDS_BETWEEN_LINES = 30.0


class Standing(msgspec.Struct, frozen=True):
    """What is shown of the last line of a training's log."""

    step: int
    epoch: float
    loss: float
    accuracy: float
    sparsity: float


@contextmanager
def watching(sweep: Sweep, epochs: float) -> Iterator[Watch]:
    """Show the progress on stderr; the function that is yielded is to be called often."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, sweep)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        whole = progress.add_task(sweep.recipe, total=None, state="")
        tasks: dict[str, TaskID] = {}

        def watch(active: Sequence[Active], ended: int, total: int) -> None:
            progress.update(whole, completed=ended, total=total, state=f"{ended} of {total} runs")
            names = {one.run.name for one in active}
            for name in tasks.keys() - names:
                progress.remove_task(tasks.pop(name))
            for one in active:
                name = one.run.name
                if name not in tasks:
                    tasks[name] = progress.add_task(f"  {name}", total=epochs, state="starting")
                standing = last_report(checkpoint_of(sweep, one.run))
                if standing is not None:
                    progress.update(tasks[name], completed=standing.epoch, state=_words(standing))

        yield watch


def last_report(checkpoint: Path) -> Standing | None:
    """The last whole line of the log of a run that is being trained."""
    log = checkpoint.with_name(f".{checkpoint.name}.training") / "log.jsonl"
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().split(b"\n")[:-1]
        return msgspec.json.decode(lines[-1], type=Standing) if lines else None
    except (OSError, msgspec.MsgspecError):
        return None


def _lines(console: Console, sweep: Sweep) -> Watch:
    shown, spoken = -1, 0.0

    def watch(active: Sequence[Active], ended: int, total: int) -> None:
        nonlocal shown, spoken
        now = time.monotonic()
        if ended == shown and now - spoken < _SECONDS_BETWEEN_LINES:
            return
        shown, spoken = ended, now
        say(console, f"{ended} of {total} runs ended")
        for one in active:
            standing = last_report(checkpoint_of(sweep, one.run))
            state = "starting" if standing is None else _words(standing)
            say(console, f"  {one.run.name}  {now - one.started:.0f} s  {state}")

    return watch


def _words(standing: Standing) -> str:
    return (
        f"epoch {standing.epoch:.2f}  loss {standing.loss:.4f}  accuracy {standing.accuracy:.4f}  "
        f"sparsity {standing.sparsity:.4f}"
    )
