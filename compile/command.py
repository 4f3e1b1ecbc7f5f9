"""``st3 compile``: checkpoints and ONNX files in, artifacts out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.status import Status

if TYPE_CHECKING:
    from compile.network import Normalisation

_TARGETS = ("cpu", "cuda")
_DTYPES = ("float32", "float16", "bfloat16")


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """``0.485,0.456,0.406`` as numbers."""
    del context, option
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither one number nor numbers with commas between") from None


def _batch_sizes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """``16`` or ``1,16`` of each option: ascending, each once."""
    try:
        return tuple(tuple(sorted({int(part) for part in value.split(",")})) for value in values)
    except ValueError:
        message = f"{' '.join(values)} is neither a number nor numbers with commas between them"
        raise click.BadParameter(message, ctx, param) from None


@click.command("compile")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for OUT/<source>/<backend>-b<N>.")
@click.option("--target", default="cpu", show_default=True, help=f"Device to compile for: {' or '.join(_TARGETS)}.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="native, onnxruntime, inductor, tensorrt or torch_tensorrt; repeatable.  [default: see above]",
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
@click.option(
    "--dtype", help=f"Numbers to compute in; {', '.join(_DTYPES)} on a GPU.  [default: float32; cuda: float16]"
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads that the engine uses by default.",
)
@click.option(
    "--isa",
    default="native",
    show_default=True,
    help="Instruction set for native: avx512, avx2, aarch64 or portable; native is this machine's.",
)
@click.option(
    "--arch",
    default="native",
    show_default=True,
    help="GPU architecture for --target cuda, such as sm_90; where there is none here, a cost model chooses.",
)
@click.option(
    "--tune/--no-tune",
    default=True,
    show_default=True,
    help="Measure each layer's alternatives here and keep the fastest, or trust a cost model.",
)
@click.option(
    "--mean",
    callback=_numbers,
    help="Of an ONNX file's pictures: its input is (x / 255 - mean) / std of pixels x. One number, or one per channel "
    "with commas (0.485,0.456,0.406).  [default: 0]",
)
@click.option("--std", callback=_numbers, help="Of an ONNX file's pictures; see --mean.  [default: 1]")
@click.option("--force", is_flag=True, help="Rebuild artifacts that are up to date.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def compile_(
    sources: tuple[Path, ...],
    out: Path,
    target: str,
    backends: tuple[str, ...],
    batch_sizes: tuple[tuple[int, ...], ...],
    dtype: str | None,
    threads: int,
    isa: str,
    arch: str,
    tune: bool,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compile SOURCES, checkpoint folders or ONNX files, into artifacts.

    Without --backend a dense checkpoint goes through every backend of the target; a sparse one, and an ONNX file,
    through those that use zeros. An ONNX file has opset 13 to 22, one picture tensor (B, C, H, W) of float32 in and one
    tensor out; only its batch may be dynamic.
    """
    from compile.backend import Effort, find_backend
    from compile.lower import (
        DEVICES,
        artifact_name,
        backends_for,
        check_batch_sizes,
        check_device,
        lower,
        source_name,
        up_to_date,
    )
    from compile.native.isa import isa_for

    if target == "cpu":
        isa_for(isa)  # a misspelt one must not merely leave native out
    _refuse_one_name(sources, source_name)
    dtype = dtype or DEVICES.get(target, _DTYPES)[0]
    wanted = arch if target == "cuda" else isa
    for name in backends or ("inductor",):
        check_device(name, target, dtype)
    # what is impossible is said before the first artifact takes its time
    jobs = [(source, name) for source in sources for name in backends or backends_for(source, target, wanted)]
    for _, name in jobs:
        find_backend(name).architecture(wanted, target)
        for sizes in batch_sizes:
            check_batch_sizes(name, sizes)
    normalisation = _normalisation(mean, std)
    console = Console(stderr=True)
    made: list[dict[str, object]] = []
    for source, backend in jobs:
        folder = out / source_name(source)
        for sizes in batch_sizes:
            artifact = folder / artifact_name(backend, sizes, target, dtype)
            start = time.perf_counter()
            fresh = not force and up_to_date(source, artifact, threads, wanted, normalisation, target, dtype)
            if not fresh:
                what = f"compiling {source.name} with {backend}, batch {','.join(map(str, sizes))}"
                if not (console.is_terminal or as_json):  # nothing turns in a file or a pipe
                    console.print(what, highlight=False, markup=False, soft_wrap=True)
                with console.status(what) as status:
                    effort = Effort(tune, _teller(status, what))
                    artifact = lower(
                        source, folder, backend, sizes, threads, wanted, effort, normalisation, target, dtype
                    )
            seconds = time.perf_counter() - start
            made.append(
                {
                    "artifact": str(artifact),
                    "backend": backend,
                    "batch_sizes": sizes,
                    "fresh": fresh,
                    "seconds": round(seconds, 3),
                }
            )
            if not as_json:
                click.echo(f"{artifact}  " + ("up to date" if fresh else f"compiled in {seconds:.1f} s"))
    if as_json:
        click.echo(msgspec.json.encode(made).decode())


def _refuse_one_name(sources: tuple[Path, ...], name_of: Callable[[Path], str]) -> None:
    """Two sources of one name would be built in one place, and the second would take the first one's."""
    from runtime.errors import UserError

    names: dict[str, Path] = {}
    for source in sources:
        other = names.setdefault(name_of(source), source)
        if other.resolve() != source.resolve():
            raise UserError(
                f"{other} and {source} are both called {name_of(source)}, and their artifacts would be too; "
                f"compile them with an --out each"
            )


def _teller(status: Status, what: str) -> Callable[[str], None]:
    """Shows what a backend is doing behind what is being compiled."""
    return lambda text: status.update(f"{what}: {text}")


def _normalisation(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Normalisation | None:
    """``None`` if neither option was given."""
    from compile.network import Normalisation

    if mean is None and std is None:
        return None
    return Normalisation(mean or (0.0,), std or (1.0,))
