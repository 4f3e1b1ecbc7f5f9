"""``st3 check`` and ``st3 run``: an artifact, replayed and used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from runtime.use import check_each, classify, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

_THREADS = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the artifact's]")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
_DIGEST = click.option("--require-digest", metavar="sha256:HEX", help="Refuse all artifacts but this; commas between.")
_SIGNATURE = click.option(
    "--require-signature",
    type=click.Path(path_type=Path),
    metavar="PUBLIC.pem",
    help="Refuse what the owner of this ed25519 key has not signed, before any of its code runs.",
)


def trust_options(command: F) -> F:
    """Adds ``--require-digest`` and ``--require-signature``; without them the environment's ``ST3_REQUIRE_*`` holds."""
    return _DIGEST(_SIGNATURE(command))


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@_THREADS
@trust_options
@_JSON
def check(
    artifacts: tuple[Path, ...],
    threads: int | None,
    require_digest: str | None,
    require_signature: Path | None,
    as_json: bool,
) -> None:
    """Replay the golden inputs of ARTIFACTS (folders are searched) and compare the answers.

    The exit status is 1 if any artifact answers wrongly or is refused.
    """
    results = []
    for result, line in check_each(artifacts, threads, require_digest, require_signature):
        results.append(result)
        if not as_json:
            click.echo(line)
    if as_json:
        click.echo(msgspec.json.encode(results).decode())
    if not all(result["passed"] for result in results):
        raise SystemExit(1)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@_THREADS
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Classes to print per picture.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the raw outputs to this .npy file (several outputs: .npz)."
)
@trust_options
@_JSON
def run(
    artifact: Path,
    inputs: tuple[Path, ...],
    threads: int | None,
    top: int,
    out: Path | None,
    require_digest: str | None,
    require_signature: Path | None,
    as_json: bool,
) -> None:
    """Run ARTIFACT on INPUTS: picture files, or .npy arrays of uint8 pictures or float32 tensors (C, H, W).

    Picture files are resized and normalised as the pictures were that its accuracy was measured on.
    """
    rows = classify(artifact, inputs, threads, top, out, require_digest, require_signature)
    if as_json:
        click.echo(msgspec.json.encode(rows).decode())
        return
    for line in lines_of(inputs, rows):
        click.echo(line)
