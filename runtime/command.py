"""``st3 check`` and ``st3 run``: an artifact, replayed and used."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.artifact import artifact_folders
from runtime.batches import run_all
from runtime.check import replay
from runtime.engine import load
from runtime.errors import UserError
from runtime.pictures import read_inputs

_THREADS = click.option("--threads", type=int, help="CPU threads.  [default: the artifact's]")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@_THREADS
@_JSON
def check(artifacts: tuple[Path, ...], threads: int | None, as_json: bool) -> None:
    """Replay the golden inputs of ARTIFACTS (folders are searched) and compare the answers.

    The exit status is 1 if any artifact answers wrongly or is refused.
    """
    results = []
    for folder in find_artifacts(artifacts):
        try:
            engine = load(folder, threads)
            result = msgspec.to_builtins(replay(engine))
            engine.close()
            line = f"error {result['error']:.2e}, tolerance {result['tolerance']:.0e}"
        except UserError as error:
            result = {"artifact": str(folder), "passed": False, "refused": str(error)}
            line = str(error)
        results.append(result)
        if not as_json:
            click.echo(f"{'ok    ' if result['passed'] else 'FAILED'}  {folder}  {line}")
    if as_json:
        click.echo(msgspec.json.encode(results).decode())
    if not all(result["passed"] for result in results):
        raise SystemExit(1)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@_THREADS
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Classes to print per picture.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the raw outputs to this .npy file.")
@_JSON
def run(
    artifact: Path, inputs: tuple[Path, ...], threads: int | None, top: int, out: Path | None, as_json: bool
) -> None:
    """Run ARTIFACT on INPUTS: picture files, or .npy arrays of uint8 pictures or float32 tensors (C, H, W)."""
    engine = load(artifact, threads)
    outputs = run_all(engine, read_inputs(inputs, engine.artifact.manifest.preprocessing))
    if out is not None:
        with out.open("wb") as stream:
            np.save(stream, outputs, allow_pickle=False)
    rows = [_best(row, engine.artifact.manifest.classes, top) for row in outputs.reshape(len(outputs), -1)]
    if as_json:
        click.echo(msgspec.json.encode(rows).decode())
        return
    for index, row in enumerate(rows):
        click.echo(f"{index}: " + ", ".join(f"{item['class']} {item['probability']:.4f}" for item in row))


def find_artifacts(paths: tuple[Path, ...]) -> list[Path]:
    """Artifact folders at or below the given paths, sorted; a ``UserError`` where there are none."""
    found: list[Path] = []
    for path in paths:
        below = artifact_folders(path)
        if not below:
            raise UserError(f"there is no artifact at or below {path}; `st3 compile` makes one")
        found += below
    return found


def _best(logits: NDArray[np.float32], classes: tuple[str, ...], top: int) -> list[dict[str, object]]:
    shifted = np.exp(logits - logits.max())
    probability = shifted / shifted.sum()
    order = np.argsort(-logits, kind="stable")[:top]
    return [
        {"class": classes[i] if i < len(classes) else str(i), "index": int(i), "probability": float(probability[i])}
        for i in order
    ]
