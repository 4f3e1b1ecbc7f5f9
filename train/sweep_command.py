"""``st3 sweep``: many runs of one recipe, several at a time, one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from runtime.training_rows import SweepRow
    from train.recipe import Recipe
    from train.sweep_plan import Run, Sweep
    from train.sweep_run import Outcome

UNFINISHED = 3
"""Exit code of a sweep that was stopped, or whose time was over, with runs left to do."""


@click.command()
@click.argument("recipe")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--methods", default="dense,st3,gmp,ste", show_default=True, help="With commas between them.")
@click.option("--sparsities", default="", help="Fractions of zeros, for instance 0.9,0.95; none for N:M.")
@click.option("--seeds", default="0", show_default=True, help="For instance 0,1,2.")
@click.option("--pattern", default="unstructured", show_default=True, help="Of every method but dense.")
@click.option("--add", multiple=True, metavar="METHOD:SPARSITY", help="One more point, for instance st3:0.99.")
@click.option("--jobs", default="auto", show_default=True, help="Runs at a time, or auto.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data set.  [default: data/<data set>]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of it all.  [default: runs/<recipe>/sweep]")
@click.option("--evaluation", type=click.Path(path_type=Path), help="The evaluation set.  [default: <out>/evaluation]")
@click.option(
    "--time-budget",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds after which the runs save their states and stop; the same command goes on later.",
)
@click.option("--rows-only", is_flag=True, help="Keep a finished run's row in sweep.jsonl, not its checkpoint.")
@click.option("--dry-run", is_flag=True, help="List the runs and what each would do, and train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.pass_context
def sweep(ctx: click.Context, /, recipe: str, options: tuple[str, ...], **given: Any) -> None:
    """Train RECIPE with several methods, sparsities and seeds; OPTIONS behind -- go to each `st3 train`.

    What is in sweep.jsonl is not trained again, and what was stopped or killed goes on from its state. The exit code
    is 1 if a run failed, and 3 if runs are left to do.
    """
    from train.command import device_of
    from train.recipe import digest, find_recipe
    from train.sweep_plan import Sweep, refuse_own_options
    from train.sweep_rows import read, refuse_other_sweep

    found = find_recipe(recipe)
    refuse_own_options(options)
    runs = _runs(given)
    where = device_of(given["device"], None).type
    out = given["out"] or Path("runs") / recipe / "sweep"
    evaluation = given["evaluation"] or out / "evaluation"
    plan = Sweep(recipe, digest(found), options, out, evaluation, given["data"], where)
    rows = read(out)
    refuse_other_sweep(plan, rows)
    done = {row.key for row in rows}
    left = [run for run in runs if plan.key(run) not in done]
    if given["dry_run"]:
        _tell_plan(plan, runs, left, given["as_json"])
        return
    outcome = _train(found, plan, left, given["jobs"], given["time_budget"], given["rows_only"]) if left else None
    _tell(plan, runs, read(out), outcome, given["as_json"])
    if outcome is not None and outcome.failures:
        ctx.exit(1)
    if outcome is not None and outcome.unfinished:
        ctx.exit(UNFINISHED)


def _runs(given: Mapping[str, Any]) -> tuple[Run, ...]:
    from train.sweep_plan import numbers, plan_runs

    names = [name.strip() for name in given["methods"].split(",") if name.strip()]
    sparsities = numbers(given["sparsities"], float, "--sparsities")
    seeds = [int(seed) for seed in numbers(given["seeds"], int, "--seeds")]
    return plan_runs(names, sparsities, seeds, given["pattern"], given["add"])


def _train(
    recipe: Recipe, plan: Sweep, left: list[Run], jobs: str, time_budget: float | None, rows_only: bool
) -> Outcome:
    import os
    import time

    from train.dataset import load_dataset, prepare_evaluation_set
    from train.sweep_pack import jobs_for, shared_gpu
    from train.sweep_run import Pace, run_sweep
    from train.sweep_view import watching

    began = time.monotonic()
    cores = len(os.sched_getaffinity(0))
    dataset = load_dataset(recipe.data, plan.data or Path("data") / recipe.data.replace("_", "-"))
    plan.out.mkdir(parents=True, exist_ok=True)
    prepare_evaluation_set(dataset, plan.evaluation)  # once, before many processes would write the same files
    count = min(len(left), _jobs(jobs) or jobs_for(plan.device, recipe, dataset, cores))
    del dataset
    with shared_gpu(count, plan.device) as (variables, line), watching(plan, recipe.epochs) as watch:
        if line:
            click.echo(line, err=True)
        spent = time.monotonic() - began
        budget = None if time_budget is None else max(0.0, time_budget - spent)
        pace = Pace(count, max(1, cores // count), budget, not rows_only, variables)
        return run_sweep(plan, left, pace, watch)


def _jobs(text: str) -> int | None:
    from runtime.errors import UserError

    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"--jobs takes a number of runs at a time, or auto, got {text!r}")
    return int(text)


def _tell_plan(plan: Sweep, runs: tuple[Run, ...], left: list[Run], as_json: bool) -> None:
    import msgspec

    from train.sweep_plan import checkpoint_of

    states = []
    for run in runs:
        checkpoint = checkpoint_of(plan, run)
        started = checkpoint.with_name(f".{checkpoint.name}.training").is_dir()
        states.append("done" if run not in left else "to go on" if started else "to do")
    if as_json:
        listed = [{"name": run.name, "state": state} for run, state in zip(runs, states, strict=True)]
        click.echo(msgspec.json.encode({"out": str(plan.out), "device": plan.device, "runs": listed}).decode())
        return
    for run, state in zip(runs, states, strict=True):
        click.echo(f"{state:8}  {run.name}")
    click.echo(f"{len(left)} of {len(runs)} runs to do on the {plan.device}, in {plan.out}")


def _tell(plan: Sweep, runs: tuple[Run, ...], rows: list[SweepRow], outcome: Outcome | None, as_json: bool) -> None:
    import msgspec

    from train.sweep_table import cells, markdown

    table = cells(rows)
    if rows:
        part = plan.out / "sweep.md.part"
        part.write_text(markdown(table))
        part.replace(plan.out / "sweep.md")
    failures = outcome.failures if outcome is not None else ()
    unfinished = outcome.unfinished if outcome is not None else ()
    if as_json:
        document = {"out": str(plan.out), "table": table, "failures": failures, "unfinished": unfinished}
        click.echo(msgspec.json.encode(document).decode())
        return
    click.echo(markdown(table) if rows else "no run is finished yet")
    finished = len({plan.key(run) for run in runs} & {row.key for row in rows})
    click.echo(f"{finished} of {len(runs)} runs are finished, in {plan.out}")
    for failure in failures:
        log = plan.out / "logs" / f"{failure.name}.log"
        click.echo(f"failed: {failure.name} (exit code {failure.code}): {failure.reason}; see {log}", err=True)
    if unfinished:
        click.echo(f"not finished: {', '.join(unfinished)}; the same command goes on", err=True)
