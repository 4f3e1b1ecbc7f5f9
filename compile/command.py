"""``st3 compile``: checkpoints and ONNX files in, artifacts out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from runtime.console import working

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
    "--dtype",
    help=f"Numbers to compute in; on a CPU that has it (AVX-512 FP16, ARM's) float16 for native, on a GPU "
    f"{', '.join(_DTYPES)}.  [default: float32; cuda: float16]",
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
    from compile.lower import DEVICES

    dtype = dtype or DEVICES.get(target, _DTYPES)[0]
    normalisation = _normalisation(mean, std)
    order = _Order(target, dtype, threads, arch if target == "cuda" else isa, tune, normalisation, force)
    made = []
    for source, backend, sizes in _jobs(sources, backends, batch_sizes, order):
        row = _make(source, out, backend, sizes, order, as_json)
        made.append(row)
        if not as_json:
            done = "up to date" if row.fresh else f"compiled in {row.seconds:.1f} s"
            click.echo(f"{row.artifact}  {done}")
    if as_json:
        click.echo(msgspec.json.encode(made).decode())


class _Order(msgspec.Struct, frozen=True):
    """What all artifacts of one command have in common; ``wanted`` is the instruction set or the GPU's architecture."""

    target: str
    dtype: str
    threads: int
    wanted: str
    tune: bool
    normalisation: Normalisation | None
    force: bool


class _Made(msgspec.Struct, frozen=True):
    """One artifact, as ``--json`` prints it; ``fresh`` is one that was there already."""

    artifact: str
    backend: str
    batch_sizes: tuple[int, ...]
    fresh: bool
    seconds: float


def _jobs(
    sources: tuple[Path, ...], backends: tuple[str, ...], batch_sizes: tuple[tuple[int, ...], ...], order: _Order
) -> list[tuple[Path, str, tuple[int, ...]]]:
    """Source, backend and batch sizes of each artifact.

    Raises:
        UserError: something is impossible; it is said before the first artifact takes its time.
    """
    from compile.backend import find_backend
    from compile.lower import backends_for, check_batch_sizes, check_device, source_name
    from compile.native.isa import isa_for

    if order.target == "cpu":
        isa_for(order.wanted, order.dtype)  # a misspelt one must not merely leave native out
    _refuse_one_name(sources, source_name)
    for name in backends or ("inductor",):
        check_device(name, order.target, order.dtype)
    found = []
    for source in sources:
        for name in backends or backends_for(source, order.target, order.wanted, order.dtype):
            find_backend(name).architecture(order.wanted, order.target)
            for sizes in batch_sizes:
                check_batch_sizes(name, sizes)
                found.append((source, name, sizes))
    return found


def _make(source: Path, out: Path, backend: str, sizes: tuple[int, ...], order: _Order, silent: bool) -> _Made:
    """One artifact under ``out``, unless it is there and fits its source."""
    from compile.backend import Effort
    from compile.lower import artifact_name, lower, source_name, up_to_date

    folder = out / source_name(source)
    artifact = folder / artifact_name(backend, sizes, order.target, order.dtype, order.wanted)
    common = order.normalisation, order.target, order.dtype
    start = time.perf_counter()
    fresh = not order.force and up_to_date(source, artifact, order.threads, order.wanted, *common)
    if not fresh:
        what = f"compiling {source.name} with {backend}, batch {','.join(map(str, sizes))}"
        with working(what, silent) as tell:
            effort = Effort(order.tune, tell)
            artifact = lower(source, folder, backend, sizes, order.threads, order.wanted, effort, *common)
    return _Made(str(artifact), backend, sizes, fresh, round(time.perf_counter() - start, 3))


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


def _normalisation(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Normalisation | None:
    """``None`` if neither option was given."""
    from compile.network import Normalisation

    if mean is None and std is None:
        return None
    return Normalisation(mean or (0.0,), std or (1.0,))
