"""The command ``st3 bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click
import msgspec

from bench.environment import usable_cpus
from bench.measure.protocol import LAUNCHES
from bench.measure.session import plan_session, resumable, run_session
from bench.measure.yardstick import parse as parse_yardstick
from bench.measurement import Scenario, Settings
from bench.measurement_file import part_of, read_measurements, read_records, set_aside
from runtime.command import trust_options
from runtime.errors import UserError
from runtime.trust import demand_everywhere

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measure.session import Plan

ROUNDS_MIN = 5
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
DRAW_S, LINE_S = 0.5, 30.0
"""Seconds between two drawings of the bar in a terminal, and between two lines in a file or a pipe."""
INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


def _threads(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    """``2`` or ``1,2`` of each option."""
    try:
        return tuple(int(part) for value in values for part in value.split(","))
    except ValueError:
        message = f"{' '.join(values)} is neither a number nor numbers with commas between them"
        raise click.BadParameter(message, ctx, param) from None


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--evaluation", required=True, type=click.Path(path_type=Path), help="Evaluation set written by training."
)
@click.option(
    "--threads", multiple=True, callback=_threads, metavar="N[,N...]", help="CPU threads; repeatable.  [default: 1,2]"
)
@click.option(
    "--seconds",
    type=float,
    default=2.0,
    show_default=True,
    help="Measuring time per artifact and condition, in seconds.",
)
@click.option("--rounds", type=int, help="Interleaved rounds, instead of --seconds.")
@click.option(
    "--launches", type=click.IntRange(1), default=LAUNCHES, show_default=True, help="New processes in which they run."
)
@click.option(
    "--scenario", default=",".join(SCENARIOS[:2]), show_default=True, help=f"Of {', '.join(SCENARIOS)}; commas between."
)
@click.option("--server-bound", type=float, metavar="MS", help="server: find the highest rate whose p99 stays below.")
@click.option("--server-rate", type=float, metavar="PER_S", help="server: measure at this rate instead.")
@click.option(
    "--baseline",
    multiple=True,
    metavar="ENGINE[-PRECISION]:FILE",
    help="An ONNX file to measure beside them, by onnxruntime, openvino, openvino-bfloat16 or openvino-float16; a "
    "quantised file runs in int8. Repeatable.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Chooses the pictures, and when they arrive at a server."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("measurements.jsonl"),
    show_default=True,
    help="The measurement file.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted session: OUT.part is not measured again.")
@trust_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout: the rows.")
def bench(
    artifacts: tuple[Path, ...],
    evaluation: Path,
    threads: tuple[int, ...],
    seconds: float,
    rounds: int | None,
    launches: int,
    scenario: str,
    server_bound: float | None,
    server_rate: float | None,
    baseline: tuple[str, ...],
    seed: int,
    out: Path,
    resume: bool,
    require_digest: str | None,
    require_signature: Path | None,
    as_json: bool,
) -> None:
    """Measure ARTIFACTS side by side: latency, throughput, accuracy, memory, size, load time and energy.

    ARTIFACTS are artifacts or folders that are searched for artifacts. Each runs in processes of its own, in turns with
    the others, and one of them twice, to see what the run can tell apart. A session that is stopped, by Ctrl-C or
    otherwise, keeps every finished round in OUT.part, and --resume goes on with it.

    Scenarios, after MLPerf's: in single-stream one call follows the other (always measured); in offline all pictures
    are there from the start, and pictures a second count; to a server they come at random moments, and what counts is
    the highest rate at which p99 is within --server-bound. Trials are far shorter than MLPerf's rules ask for.
    """
    demand_everywhere(require_digest, require_signature)  # the processes that measure load the artifacts
    chosen = threads or tuple(range(1, 1 + min(2, len(usable_cpus()))))
    settings = settings_for(seconds, rounds, seed, launches)
    settings = with_scenarios(settings, scenario, server_bound, server_rate)
    _check_place(out)
    plan = plan_session(artifacts, evaluation, chosen, settings, [parse_yardstick(text) for text in baseline])
    part = part_of(out)
    if part.exists() and not resume:
        click.echo(
            f"{part} was interrupted: it is set aside as {set_aside(out).name}; --resume goes on with one", err=True
        )
    finished = with_progress(plan, out, resume)
    complete = finished == len(plan.conditions) and not part.exists()
    source = out if complete else part
    if source.exists():
        from bench.report.terminal import print_session

        print_session(read_measurements(source), source, as_json, f"measurements: {source}")
    if not complete:
        kept = f"what is measured is kept in {part}; --resume goes on" if part.exists() else "nothing was measured yet"
        click.echo(f"interrupted with {finished} of {len(plan.conditions)} conditions finished: {kept}", err=True)
        raise click.exceptions.Exit(INTERRUPTED)


def _check_place(out: Path) -> None:
    """Refuse to replace what is no session, before anything is measured; say that one will be replaced."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file in it, for instance {out / 'measurements.jsonl'}")
    if not out.exists():
        return
    try:
        read_records(out)
    except UserError as error:
        raise UserError(f"--out {out} is there and is no finished session ({error}); give another name") from error
    click.echo(f"{out} is there, and is replaced when this session is finished", err=True)


def settings_for(seconds: float, rounds: int | None, seed: int, launches: int = LAUNCHES) -> Settings:
    """The protocol's numbers for a measuring time per artifact and condition, or for a number of rounds."""
    if rounds is None and not seconds > 0:
        raise UserError(f"--seconds must be positive, got {seconds:g}")
    if rounds is not None and rounds < 1:
        raise UserError(f"--rounds must be 1 or more, got {rounds}")
    base = Settings(seed=seed)
    wanted = max(ROUNDS_MIN, round(seconds / base.turn_s)) if rounds is None else rounds
    return msgspec.structs.replace(base, rounds=wanted, launches=min(launches, wanted))


def with_scenarios(settings: Settings, text: str, bound_ms: float | None, rate_per_s: float | None) -> Settings:
    """Add the scenarios of ``--scenario``; raises ``UserError`` where one is unknown or the server lacks its number."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [name for name in SCENARIOS if name in names or name == SCENARIOS[0]]
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise UserError(f"--scenario {text}: {unknown[0]!r} is none of {', '.join(SCENARIOS)}")
    numbers = [number for number in (bound_ms, rate_per_s) if number is not None]
    if ("server" in known) != bool(numbers):
        raise UserError("--scenario server needs --server-bound MS or --server-rate PER_S, and these need it")
    if any(not number > 0 for number in numbers):
        raise UserError(f"--server-bound and --server-rate must be positive, got {min(numbers):g}")
    return msgspec.structs.replace(
        settings, scenarios=tuple(known), server_bound_ms=bound_ms, server_rate_per_s=rate_per_s
    )


def with_progress(plan: Plan, out: Path, resume: bool = False) -> int:
    """Run the session with a bar on stderr; the number of conditions that were finished."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from runtime.console import say

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    # no refresh by a thread of its own: it would run on the CPUs that are being measured
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        total = plan.steps(resumable(plan, out) if resume else ())
        task = progress.add_task("starting", total=total)
        show = progress.refresh
        if not progress.console.is_terminal:  # in a file or a pipe no bar moves

            def show() -> None:
                done = progress.tasks[0]
                text = f"{done.completed:.0f} of {done.total:.0f} steps: {done.description}"
                say(progress.console, text)

        every_s = DRAW_S if progress.console.is_terminal else LINE_S
        return run_session(plan, out, _stepper(progress.update, show, task, every_s), resume=resume)


def _stepper(
    update: Callable[..., None], show: Callable[[], None], task: object, every_s: float
) -> Callable[[str], None]:
    from time import monotonic

    shown = monotonic()

    def advance(text: str) -> None:
        nonlocal shown
        update(task, advance=1, description=text)
        if monotonic() - shown >= every_s:
            show()
            shown = monotonic()

    return advance
