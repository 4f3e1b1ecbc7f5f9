"""The commands ``st3 bench`` and ``st3 report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from bench.environment import usable_cpus
from bench.measurement import Settings
from bench.measurement_file import read_measurements
from bench.session import plan_session, run_session
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measurement import Measurements
    from bench.session import Plan

ROUNDS_MIN = 5
INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--evaluation", required=True, type=click.Path(path_type=Path), help="Evaluation set written by training."
)
@click.option("--threads", multiple=True, type=int, help="CPU threads; may be repeated.  [default: 1 and 2]")
@click.option(
    "--seconds", type=float, default=2.0, show_default=True, help="Measuring time per artifact and condition."
)
@click.option("--rounds", type=int, help="Interleaved rounds, instead of --seconds.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Chooses the pictures that latency is measured on."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("measurements.jsonl"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as one JSON document.")
def bench(
    artifacts: tuple[Path, ...],
    evaluation: Path,
    threads: tuple[int, ...],
    seconds: float,
    rounds: int | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Measure ARTIFACTS side by side: latency, accuracy, memory and size.

    ARTIFACTS are artifacts or folders that are searched for artifacts. Ctrl-C keeps what is finished.
    """
    chosen = threads or tuple(range(1, 1 + min(2, len(usable_cpus()))))
    plan = plan_session(artifacts, evaluation, chosen, settings_for(seconds, rounds, seed))
    finished = with_progress(plan, out)
    if finished:
        _print(read_measurements(out), out, as_json, f"measurements: {out}")
    if finished < len(plan.conditions):
        click.echo("interrupted: the condition under way is lost, finished ones are kept", err=True)
        raise click.exceptions.Exit(INTERRUPTED)


@click.command()
@click.argument("measurements", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the reports.  [default: that of MEASUREMENTS]")
@click.option("--json", "as_json", is_flag=True, help="Print report.json on the terminal too, and nothing else.")
def report(measurements: Path, out: Path | None, as_json: bool) -> None:
    """Write report.html, .md, .csv and .json from MEASUREMENTS."""
    from bench.report import write_report

    session = read_measurements(measurements)
    folder = out or measurements.parent
    write_report(session, measurements.name, folder)
    _print(session, measurements, as_json, f"report: {folder / 'report.html'} (also .md, .csv, .json)")


def settings_for(seconds: float, rounds: int | None, seed: int) -> Settings:
    """The protocol's numbers for a measuring time per artifact and condition, or for a number of rounds."""
    if rounds is None and not seconds > 0:
        raise UserError(f"--seconds must be positive, got {seconds:g}")
    if rounds is not None and rounds < 1:
        raise UserError(f"--rounds must be 1 or more, got {rounds}")
    base = Settings(seed=seed)
    wanted = max(ROUNDS_MIN, round(seconds / base.turn_s)) if rounds is None else rounds
    return msgspec.structs.replace(base, rounds=wanted)


def with_progress(plan: Plan, out: Path) -> int:
    """Run the session with a bar on stderr; the number of conditions that were finished."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    # no refresh by a thread of its own: it would run on the CPUs that are being measured
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task("starting", total=plan.steps())
        return run_session(plan, out, _stepper(progress.update, progress.refresh, task))


def _stepper(
    update: Callable[..., None], refresh: Callable[[], None], task: object, every_s: float = 0.5
) -> Callable[[str], None]:
    from time import monotonic

    drawn = 0.0

    def advance(text: str) -> None:
        nonlocal drawn
        update(task, advance=1, description=text)
        if monotonic() - drawn >= every_s:
            refresh()
            drawn = monotonic()

    return advance


def _print(session: Measurements, source: Path, as_json: bool, last: str) -> None:
    from rich.console import Console

    from bench.analysis import analyse
    from bench.document import document
    from bench.report import encode
    from bench.summary import groups
    from bench.terminal import show

    analysis = analyse(session)
    if as_json:
        click.echo(encode(document(session, source.name, analysis)), nl=False)
        return
    show(Console(soft_wrap=True), analysis, groups(analysis.rows))
    click.echo(f"\n{last}")
