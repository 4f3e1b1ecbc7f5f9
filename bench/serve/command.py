"""The options of ``python -m bench.serve``, its table, and its file of results."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from bench.environment import describe
from bench.serve import scenarios
from bench.serve.fuzz import fuzz
from bench.serve.scenarios import Outcome, Plan, bodies, start
from bench.serve.soak import soak
from runtime.artifact import open_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_SPEEDUP = 1.5
_COLUMNS = ("scenario", "answered", "errors", "lost", "req/s", "p50 ms", "p99 ms", "batch", "note")


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path, exists=True))
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="Seconds of each scenario.")
@click.option("--clients", type=click.IntRange(1), default=64, show_default=True, help="Connections at once.")
@click.option("--server", "arguments", multiple=True, metavar="OPTION", help="An option of st3 serve; again for more.")
@click.option(
    "--fuzz", "fuzz_count", type=click.IntRange(0), default=0, help="Send this many malformed requests instead."
)
@click.option("--soak", "soak_minutes", type=click.FloatRange(0), default=0.0, help="Soak for these minutes instead.")
@click.option(
    "--pause-ms",
    type=click.FloatRange(0),
    default=20.0,
    show_default=True,
    help="Soak: pause between requests.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Append one JSON line per result to this file.")
def main(
    artifact: Path,
    seconds: float,
    clients: int,
    arguments: tuple[str, ...],
    fuzz_count: int,
    soak_minutes: float,
    pause_ms: float,
    out: Path | None,
) -> None:
    """Put `st3 serve ARTIFACT` under load; exit status 1 where a request was lost, refused or too slow to batch.

    Client and server share this machine: the figures are of both together.
    """
    plan = Plan(str(artifact), seconds, clients, arguments)
    _write(out, {"type": "session", "environment": describe(), "plan": _public(plan)})
    if fuzz_count:
        failures = _fuzz(plan, artifact, fuzz_count, out)
    elif soak_minutes:
        failures = _soak(plan, artifact, soak_minutes * 60.0, pause_ms * 1e-3, out)
    else:
        failures = _load(plan, artifact, out)
    for failure in failures:
        click.echo(f"FAILED  {failure}", err=True)
    if failures:
        raise SystemExit(1)


def _load(plan: Plan, artifact: Path, out: Path | None) -> list[str]:
    requests = bodies(artifact)
    runs: list[Callable[[], Coroutine[Any, Any, Outcome]]] = [
        lambda: scenarios.saturation(plan, requests, 1),
        lambda: scenarios.saturation(plan, requests),
        lambda: scenarios.reload(plan, requests),
        lambda: scenarios.killed_worker(plan, requests),
        lambda: scenarios.graceful_stop(plan, requests),
    ]
    outcomes: list[Outcome] = []
    for run in runs:
        click.echo(f"scenario {len(outcomes) + 1} of {len(runs)}, {plan.seconds:g} s", err=True)
        outcomes.append(asyncio.run(run()))
        _write(out, {"type": "load", **msgspec.to_builtins(outcomes[-1])})
    for row in [_COLUMNS, *map(_cells, outcomes)]:
        click.echo("  ".join(cell.ljust(24) if i == 0 else cell.rjust(9) for i, cell in enumerate(row)))
    speedup = outcomes[1].requests_per_s / max(outcomes[0].requests_per_s, 1e-9)
    click.echo(f"batching: {speedup:.2f} times the requests per second of batch 1")
    failures = [f"{outcome.scenario}: {failure}" for outcome in outcomes for failure in outcome.failures]
    if speedup < _SPEEDUP:
        failures.append(f"batching gave {speedup:.2f} times the throughput of batch 1, wanted {_SPEEDUP}")
    return failures


def _fuzz(plan: Plan, artifact: Path, count: int, out: Path | None) -> list[str]:
    with start(plan, "--read-timeout", "1", "--idle-timeout", "1") as server:
        outcome = fuzz(server, server.models[0], artifact, bodies(artifact, 1)[0], count)
    _write(out, {"type": "fuzz", **msgspec.to_builtins(outcome)})
    click.echo(
        f"{count} malformed requests in {outcome.seconds:.0f} s: {outcome.statuses}, growth MiB {outcome.growth_mib}"
    )
    return list(outcome.failures)


def _soak(plan: Plan, artifact: Path, seconds: float, pause_s: float, out: Path | None) -> list[str]:
    def say(line: str) -> None:
        click.echo(line, err=True)

    with start(plan) as server:
        outcome = asyncio.run(soak(server, server.models[0], artifact, seconds, plan.clients, pause_s, say))
    _write(out, {"type": "soak", **msgspec.to_builtins(outcome)})
    click.echo(
        f"{outcome.seconds:.0f} s: {outcome.answered} answered, {outcome.errors} errors, {outcome.lost} lost, "
        f"{outcome.malformed} malformed, {outcome.reloads} reloads; memory "
        + ", ".join(f"{key} {part:+.1%}" for key, part in outcome.growth.items())
    )
    return list(outcome.failures)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    rates = (outcome.requests_per_s, outcome.p50_ms, outcome.p99_ms, outcome.mean_batch)
    counts = (outcome.answered, outcome.errors, outcome.lost)
    return (outcome.scenario, *map(str, counts), *(f"{rate:.1f}" for rate in rates), outcome.note)


def _public(plan: Plan) -> dict[str, Any]:
    """The plan, with what was served in place of where it lay."""
    artifact = open_artifact(Path(plan.artifact), verify=False)
    known = {"artifact": artifact.manifest.name, "digest": artifact.digest, "engine": artifact.manifest.engine}
    return {**msgspec.to_builtins(plan), **known}


def _write(out: Path | None, row: dict[str, Any]) -> None:
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab") as stream:
        stream.write(msgspec.json.encode(row) + b"\n")
    sys.stdout.flush()
