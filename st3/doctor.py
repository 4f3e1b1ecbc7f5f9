"""``st3 doctor``: what this machine is, what is installed, and from which sparsity on zeros pay here.

The parts belong to two stages that do not know each other, so each is loaded where it lies when its turn comes. What
one lacks (torch, a compiler, a GPU) is said in its place, and the others are still there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[str, float], None]

_WIDTH = 90


class Part(msgspec.Struct, frozen=True):
    """One part of the answer.

    Attributes:
        key: its name in the JSON document.
        title: what it is called where it is missing.
        examine: the place of the function that finds it, as ``module:function``.
        show: the place of the function that makes a table, a line, or a list of them of what was found.
        seconds: about how long it takes; 0 for what is not measured, and so needs no progress and is part of --quick.
        gpu: whether it is left out where there is no GPU.
    """

    key: str
    title: str
    examine: str
    show: str
    seconds: float = 0.0
    gpu: bool = False


PARTS = (
    Part("processor", "the processor", "bench.machine.processor:examine", "bench.machine.show:processor_table"),
    Part("gpus", "GPUs", "compile.doctor.gpus:examine", "compile.doctor.show:gpu_table"),
    Part("software", "software", "compile.doctor.software:examine", "compile.doctor.show:software_table"),
    Part("speed", "peak and bandwidth", "bench.machine.speed:measure", "bench.machine.show:speed_table", 5.0),
    Part(
        "cpu", "what zeros are worth on the CPU", "compile.doctor.native:expect",
        "compile.doctor.show:expectation_tables", 20.0,
    ),
    Part(
        "gpu", "what zeros are worth on the GPU", "compile.doctor.cuda:expect",
        "compile.doctor.show:expectation_tables", 20.0, gpu=True,
    ),
)  # fmt: skip


@click.command()
@click.option("--quick", is_flag=True, help="Only look, measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def doctor(quick: bool, as_json: bool) -> None:
    """Say what this machine is and what sparsity is worth on it.

    Processor, GPU and software, with the command that installs what is missing; the peak of multiply-adds and the
    bandwidth; and from which sparsity on each of st3's formats is faster than dense engines on two layers of a
    ResNet's kind, all measured now, in about half a minute on an idle machine.
    """
    wanted = [part for part in PARTS if not (quick and part.seconds)]
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    with _bar(sum(part.seconds for part in wanted)) as advance:
        done = 0.0
        for part in wanted:
            if part.gpu and not found.get("gpus"):
                continue
            result, reason = examine(part, _scaled(advance, done, part.seconds))
            done += part.seconds
            if reason:
                missing[part.key] = reason
            else:
                found[part.key] = result
    if as_json:
        click.echo(msgspec.json.encode({**found, "missing": missing}).decode())
        return
    _print(found, missing)


def examine(part: Part, report: Progress) -> tuple[Any, str]:
    """What a part found, or why there is nothing, in one line."""
    from runtime.errors import UserError

    try:
        function = _load(part.examine)
        return (function(report) if part.seconds else function()), ""
    except UserError as error:
        return None, str(error)
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        return None, f"{error}; pip install {name}" if name else str(error)
    except Exception as error:  # whatever is broken here, the other parts are worth reading
        first = (str(error).strip() or "no message").splitlines()[0]
        return None, f"{type(error).__name__}: {first}"


def _print(found: dict[str, Any], missing: dict[str, str]) -> None:
    from rich.console import Console

    # a file or a pipe has no width, and many a window too little: a long line is better than a column left out
    console = Console(width=max(Console().width, _WIDTH) if sys.stdout.isatty() else 160)
    for part in PARTS:
        if part.key in missing:
            console.print(f"{part.title}: not known: {missing[part.key]}", markup=False, soft_wrap=True)
            console.print()
        elif part.key in found:
            shown: Table | str | list[Table | str] = _load(part.show)(found[part.key])
            for one in shown if isinstance(shown, list) else [shown]:
                console.print(one, markup=False, highlight=False, soft_wrap=isinstance(one, str))
            console.print()


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


@contextmanager
def _bar(seconds: float) -> Iterator[Progress]:
    """A bar on stderr; none where nothing is measured."""
    if not seconds:
        yield lambda _text, _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    # no refresh by a thread of its own: it would run on the CPUs that are being measured
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        task = progress.add_task("looking", total=seconds)

        def advance(text: str, done: float) -> None:
            progress.update(task, completed=done, description=text)
            progress.refresh()

        yield advance


def _scaled(advance: Progress, start: float, seconds: float) -> Progress:
    """A part's own share of the bar."""
    return lambda text, done: advance(text, start + done * seconds)
