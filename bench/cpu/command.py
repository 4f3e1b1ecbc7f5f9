"""The command ``python -m bench.cpu``: measures, writes the raw record and the rows, prints the tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from bench.cpu.alone import run_alone
from bench.cpu.logits import LIMITS, compare
from bench.cpu.logits import METRIC as LOGITS
from bench.cpu.plan import PROOF, YARDSTICK, find, plan_cpu, weights_of
from bench.cpu.rows import make_rows, precision_of
from bench.cpu.show import COMPILE_TIME, MEMORY_ALONE, show
from bench.measure.command import INTERRUPTED, with_progress
from bench.measure.process import ProcessWorker
from bench.measurement import Measurement, Settings
from bench.measurement_file import read_measurements
from bench.naming import NATIVE, engine_label
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.measure.participant import Entry
    from bench.measure.process import Worker
    from bench.measure.session import Plan
    from bench.measurement import Measurements, Record

ROUNDS = 25
LAUNCHES = 3  # a ResNet-50 takes seconds to load, and there are a dozen under each condition
TURN_S = 0.15
WARM_LIMIT_S = 3.0  # three calls of a batch of 16 take almost as long, and it takes two windows of them to agree
WIDTH = 180


@click.command()
@click.argument("artifacts", type=click.Path(path_type=Path))
@click.option("--evaluation", required=True, type=click.Path(path_type=Path), help="Pictures to run.")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Interleaved rounds.")
@click.option("--steps", multiple=True, help=f"Weights whose steps are shown; repeatable.  [default: {PROOF}]")
@click.option(
    "--compiled",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What `st3 compile --json` said, for the seconds; repeatable.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Rows as JSON; raw record beside it, .jsonl."
)
def main(
    artifacts: Path, evaluation: Path, rounds: int, steps: tuple[str, ...], compiled: tuple[Path, ...], out: Path
) -> None:
    """Measure ARTIFACTS, a folder WEIGHTS/BACKEND-bN, as ``make bench-cpu`` lays it out."""
    from rich.console import Console

    settings = Settings(rounds=rounds, launches=LAUNCHES, turn_s=TURN_S, warm_limit_s=WARM_LIMIT_S)
    plan, references = plan_cpu(artifacts, evaluation, settings)
    chosen = chosen_weights(plan, steps)
    seconds = compile_times(compiled)
    log = Console(stderr=True)
    raw = out.with_suffix(".jsonl")
    notes = take_notes(plan, references, chosen, seconds, ProcessWorker, lambda text: log.print(text, highlight=False))
    if with_progress(msgspec.structs.replace(plan, notes=tuple(notes)), raw) < len(plan.conditions):
        click.echo("interrupted: there is no table of a session that is not finished", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    session = read_measurements(raw)
    rows = make_rows(session)
    part = out.with_name(out.name + ".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    part.replace(out)
    # a pipe has no width and many a terminal too little: a long line is better than a cell cut off
    show(Console(soft_wrap=True, width=max(log.width, WIDTH)), session, rows, chosen)
    click.echo(f"\nrows: {out}, samples: {raw}")
    refuse_wrong_answers(session)


def chosen_weights(plan: Plan, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The weights whose steps are timed: those asked for, else ``PROOF``, else the last sparse ones.

    Raises:
        UserError: native has no artifact of the weights asked for.
    """
    known = list(dict.fromkeys(weights_of(e.record) for e in plan.entries if e.record.engine == NATIVE))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(f"there is no native artifact of the weights {unknown[0]!r}; there are {', '.join(known)}")
    if wanted or not known:
        return wanted
    return (PROOF,) if PROOF in known else (known[-1],)


def compile_times(paths: Iterable[Path]) -> dict[str, float]:
    """Seconds of each compilation by the artifact's name; those that were up to date took none and are left out."""
    found: dict[str, float] = {}
    for path in paths:
        try:
            made = msgspec.json.decode(path.read_bytes())
            found |= {"/".join(Path(one["artifact"]).parts[-2:]): one["seconds"] for one in made if not one["fresh"]}
        except (OSError, msgspec.MsgspecError, LookupError, TypeError) as error:
            raise UserError(f"{path} is not what `st3 compile --json` prints ({error}); run make bench-cpu") from error
    return found


def take_notes(
    plan: Plan,
    references: dict[str, Entry],
    weights: Iterable[str],
    seconds: dict[str, float],
    spawn: Callable[[], Worker],
    advance: Callable[[str], None],
) -> list[Record]:
    """Everything that is measured once and alone: seconds of compilation, answers and memory."""
    notes: list[Record] = [
        _once(entry, COMPILE_TIME, "s", seconds[entry.record.name])
        for entry in plan.entries
        if entry.record.name in seconds and entry.record.engine != YARDSTICK
    ]
    notes += compare(plan, references, spawn, advance)
    for name in weights:
        for entry in find(plan.entries, name, NATIVE, 1):
            advance(f"running {entry.record.name} through the runtime alone")
            notes.append(_once(entry, MEMORY_ALONE, "bytes", run_alone(entry.folder, threads=1).peak_bytes))
    return notes


def _once(entry: Entry, metric: str, unit: str, value: float) -> Measurement:
    return Measurement(
        artifact=entry.record.digest,
        metric=metric,
        unit=unit,
        batch_size=entry.record.target.batch_size,
        threads=1,
        samples=((value,),),
    )


def refuse_wrong_answers(session: Measurements) -> None:
    """Raise ``UserError`` where an engine's logits differ from ONNX Runtime's by more than its precision's limit."""
    records = {record.digest: record for record in session.artifacts}
    wrong = []
    for m in session.measurements:
        if m.metric == LOGITS and m.samples:
            record, difference = records[m.artifact], m.samples[0][0]
            limit = LIMITS[precision_of(record.target.dtype)]
            if difference > limit:
                wrong.append(
                    f"{record.name} with {engine_label(record.engine, record.target.dtype)} by {difference:.1e} of "
                    f"the largest (allowed are {limit:.0e})"
                )
    if wrong:
        raise UserError(
            f"{len(wrong)} artifacts answer otherwise than ONNX Runtime in float32 with the same weights; logits "
            f"differ: {'; '.join(wrong)}; do not use the figures above"
        )
