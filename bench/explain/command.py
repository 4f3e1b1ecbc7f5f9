"""The command ``st3 explain``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

_WIDTH = 130


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("layer", required=False)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the artifact's]")
@click.option("--measure/--no-measure", default=True, show_default=True, help="Time the steps of the network here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def explain(artifact: Path, layer: str | None, threads: int | None, measure: bool, as_json: bool) -> None:
    """Explain LAYER of ARTIFACT, or list all its layers.

    Pattern, density, format and why; the least time that this processor could need (its peak and bandwidth are measured
    once, in some two seconds, and remembered); the time that it takes; and what would make it faster.
    """
    from rich.console import Console

    from bench.explain.explanation import explain_artifact
    from bench.explain.show import all_layers, one_layer
    from runtime.artifact import open_artifact
    from runtime.console import working

    with working("measuring", silent=True):
        answer = explain_artifact(open_artifact(artifact), threads, layer, measure)
    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
        return
    # a file or a pipe has no width, and many a window too little: a long line is better than a cell cut off
    console = Console(width=max(Console().width, _WIDTH) if sys.stdout.isatty() else 160)
    if layer is None:
        console.print(all_layers(answer), highlight=False)
        if any(found.shares_step_with for found in answer.layers):
            console.print("* the time of a step that it shares with a neighbour", highlight=False)
        console.print(f"why: st3 explain {artifact} LAYER", highlight=False, soft_wrap=True)
    else:
        console.print(one_layer(answer, answer.layers[0]), highlight=False)
    for note in answer.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
