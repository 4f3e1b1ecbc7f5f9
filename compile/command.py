"""``st3 compile``: checkpoints in, artifacts out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.status import Status


def _batch_sizes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """``16`` or ``1,16`` of each option: ascending, each once."""
    try:
        return tuple(tuple(sorted({int(part) for part in value.split(",")})) for value in values)
    except ValueError:
        message = f"{' '.join(values)} is neither a number nor numbers with commas between them"
        raise click.BadParameter(message, ctx, param) from None


@click.command("compile")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for OUT/<checkpoint>/<backend>-b<N>."
)
@click.option(
    "--backend", "backends", multiple=True, help="Backend; repeat for several.  [default: all that make sense]"
)
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    callback=_batch_sizes,
    default=("1",),
    show_default=True,
    metavar="N[,N...]",
    help="Pictures per run. 1,16: one artifact for both (native). Repeat the option for separate artifacts.",
)
@click.option("--threads", type=int, default=1, show_default=True, help="Threads that the engine uses by default.")
@click.option("--isa", default="native", show_default=True, help="Instruction set for native: avx512, avx2, portable.")
@click.option(
    "--tune/--no-tune",
    default=True,
    show_default=True,
    help="Measure each layer's alternatives here and keep the fastest, or trust a cost model (native).",
)
@click.option("--force", is_flag=True, help="Rebuild artifacts that are up to date.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def compile_(
    checkpoints: tuple[Path, ...],
    out: Path,
    backends: tuple[str, ...],
    batch_sizes: tuple[tuple[int, ...], ...],
    threads: int,
    isa: str,
    tune: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Compile CHECKPOINTS into artifacts.

    Without --backend a dense checkpoint goes through every CPU backend, a sparse one through those that use zeros.
    """
    from compile.backend import Effort, find_backend
    from compile.lower import artifact_name, backends_for, check_batch_sizes, lower, up_to_date

    for name in backends:
        find_backend(name)
    # what is impossible is said before the first artifact takes its time
    jobs = [(checkpoint, name) for checkpoint in checkpoints for name in backends or backends_for(checkpoint)]
    for _, name in jobs:
        for sizes in batch_sizes:
            check_batch_sizes(name, sizes)
    console = Console(stderr=True)
    made: list[dict[str, object]] = []
    for checkpoint, backend in jobs:
        folder = out / checkpoint.resolve().name
        for sizes in batch_sizes:
            target = folder / artifact_name(backend, sizes)
            start = time.perf_counter()
            fresh = not force and isa == "native" and up_to_date(checkpoint, target, threads)
            if not fresh:
                what = f"compiling {checkpoint.name} with {backend}, batch {','.join(map(str, sizes))}"
                with console.status(what) as status:
                    effort = Effort(tune, _teller(status, what))
                    target = lower(checkpoint, folder, backend, sizes, threads, isa, effort)
            seconds = time.perf_counter() - start
            made.append(
                {
                    "artifact": str(target),
                    "backend": backend,
                    "batch_sizes": sizes,
                    "fresh": fresh,
                    "seconds": round(seconds, 3),
                }
            )
            if not as_json:
                click.echo(f"{target}  " + ("up to date" if fresh else f"compiled in {seconds:.1f} s"))
    if as_json:
        click.echo(msgspec.json.encode(made).decode())


def _teller(status: Status, what: str) -> Callable[[str], None]:
    """Shows what a backend is doing behind what is being compiled."""
    return lambda text: status.update(f"{what}: {text}")
