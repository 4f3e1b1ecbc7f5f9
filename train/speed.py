"""What a method costs: images per second of its training steps against dense ones, taken in turns in one process.

``python -m train.speed fashion-resnet8 --batch-size 128`` measures every method on noise pictures; one line of JSON per
method with ``--json``. ``resnet50-synthetic`` is ResNet-50 at 224 x 224 with the ImageNet recipe.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import torch
from torch import Tensor

from runtime.errors import UserError
from runtime.training_rows import SpeedRow
from st3.plan import SparsityPlan
from st3.registry import find_method
from train.command import device_of
from train.distributed import World
from train.graph_step import reason_against
from train.precision import resolve
from train.provenance import commit, versions
from train.recipe import Recipe, find_recipe
from train.seeds import derive
from train.settings import Settings
from train.trainer import Execution, Trainer

RESNET50 = "resnet50-synthetic"
_SHAPES = {"fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "tiny_imagenet": (3, 64, 64)}
_IMAGENET = (3, 224, 224)
_PICTURES = {"fashion_mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000}
_IMAGENET_PICTURES = 1_281_167
_SPARSITY = 0.9
_STEPS = 1_000_000
"""Of the pretended run: the schedule is complete from half of it on, and every step here is of that part."""
_FIRST = 600_000
_WARM_UP = 5
_PROFILED = 5


class Bench(msgspec.Struct, frozen=True):
    """What to measure: in each of ``rounds``, every method takes steps for about ``window_s`` seconds."""

    name: str
    recipe: Recipe
    precision: str
    device: torch.device
    rounds: int
    window_s: float
    profile: bool = False


def measure(bench: Bench, mode: str, methods: tuple[str, ...]) -> list[SpeedRow]:
    """One row per method, after dense, which comes twice."""
    names = ("dense", "dense again", *(method for method in methods if method != "dense"))
    steppers = [_stepper(bench, mode, name.removesuffix(" again")) for name in names]
    steps = _steps_per_window(bench, steppers[0])
    times: list[list[tuple[float, float]]] = [[] for _ in names]
    for turn in range(bench.rounds):
        order = range(len(names)) if turn % 2 == 0 else reversed(range(len(names)))
        for index in order:
            times[index].append(_time(bench.device, steppers[index], steps))
    if bench.profile:
        for name, step in zip(names, steppers, strict=True):
            click.echo(f"{mode} {name}, {_PROFILED} steps\n{_profile(bench.device, step)}", err=True)
    dense = [whole for whole, _ in times[0]]
    return [
        _row(bench, mode, name, own, None if own is times[0] else dense) for name, own in zip(names, times, strict=True)
    ]


def _row(bench: Bench, mode: str, name: str, own: list[tuple[float, float]], dense: list[float] | None) -> SpeedRow:
    """``own`` are seconds per step and those until it was issued; ``dense`` seconds per step in the same rounds."""
    recipe, windows = bench.recipe, [whole for whole, _ in own]
    middle = statistics.median(windows)
    low, _, high = statistics.quantiles(windows, n=4) if len(windows) > 1 else (middle, middle, middle)
    ratios = [mine / theirs for mine, theirs in zip(windows, dense, strict=True)] if dense else []
    pictures = (recipe.epochs + recipe.finetune_epochs) * _PICTURES.get(recipe.data, _IMAGENET_PICTURES)
    return SpeedRow(
        recipe=bench.name,
        method=name,
        mode=mode,
        batch_size=recipe.batch_size,
        precision=bench.precision,
        images_per_s=recipe.batch_size / middle,
        spread_percent=100 * (high - low) / 2 / middle,
        overhead_percent=100 * (statistics.median(ratios) - 1) if dense else None,
        step_ms=1e3 * middle,
        issue_ms=1e3 * statistics.median(issued for _, issued in own),
        run_hours=pictures / recipe.batch_size * middle / 3600,
        windows_s=tuple(windows),
        device=torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu",
        commit=commit(),
        versions=versions(),
    )


def _stepper(bench: Bench, mode: str, method: str) -> Callable[[], None]:
    """A function that takes the next training step on fixed noise pictures."""
    plan = SparsityPlan(sparsity=0.0 if method == "dense" else _SPARSITY, begin=0.0, end=0.5)
    settings = Settings(
        bench.name, "", method, plan, 1.0, _STEPS, bench.recipe.batch_size, 0, precision=bench.precision
    )
    execution = Execution(graph=mode == "graph", compile=mode == "compiled")
    trainer = Trainer(bench.recipe, settings, bench.device, execution, World())
    images, labels = _noise(bench)
    number = _FIRST

    def step() -> None:
        nonlocal number
        trainer.step(images, labels, number)
        number += 1

    for _ in range(_WARM_UP):
        step()
    return step


def _noise(bench: Bench) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(derive(0, "noise"))
    shape = (bench.recipe.batch_size, *_SHAPES.get(bench.recipe.data, _IMAGENET))
    images = torch.randn(shape, generator=random).to(bench.device)
    return images, torch.randint(10, shape[:1], generator=random).to(bench.device)


def _steps_per_window(bench: Bench, step: Callable[[], None]) -> int:
    seconds, _ = _time(bench.device, step, 3)
    return max(2, round(bench.window_s / seconds))


def _time(device: torch.device, step: Callable[[], None], count: int) -> tuple[float, float]:
    """Seconds per step until the device is done, and until the host has issued it."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    issued = time.perf_counter()
    _wait(device)
    return (time.perf_counter() - start) / count, (issued - start) / count


def _profile(device: torch.device, step: Callable[[], None]) -> str:
    """Which kernels (on a CPU, which operators) the time of some steps goes to, the longest first, and how many run."""
    from torch.profiler import ProfilerActivity, profile

    gpu = device.type == "cuda"
    _wait(device)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as seen:
        for _ in range(_PROFILED):
            step()
        _wait(device)
    averages = seen.key_averages()
    kernels = sum(each.count for each in averages if each.device_type.name == "CUDA")
    order = "self_cuda_time_total" if gpu else "self_cpu_time_total"
    table: str = averages.table(sort_by=order, row_limit=25, max_name_column_width=60)
    return f"{table}\n{kernels / _PROFILED:.0f} kernels a step" if gpu else table


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@click.command()
@click.argument("recipe")
@click.option("--methods", default="st3", show_default=True, help="Comma-separated; dense is always measured.")
@click.option("--modes", default="eager,compiled", show_default=True, help="Of eager, compiled, graph.")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: recipe's; 256 for resnet50-synthetic]")
@click.option("--precision", help="fp32, bf16 or fp16.  [default: bf16 on a GPU, fp32 on a CPU]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Windows of each method.")
@click.option("--window", type=float, default=1.0, show_default=True, help="Seconds of a window, about.")
@click.option("--profile", is_flag=True, help="Tell on stderr which kernels the time goes to.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the rows, one line of JSON each.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows, one line of JSON each.")
def main(
    recipe: str,
    methods: str,
    modes: str,
    batch_size: int | None,
    precision: str | None,
    device: str,
    threads: int | None,
    rounds: int,
    window: float,
    profile: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure what methods cost when they train RECIPE's network, or resnet50-synthetic."""
    where = device_of(device, threads)
    names = tuple(methods.split(","))
    for name in names:
        find_method(name)
    found = find_recipe("imagenet-resnet50" if recipe == RESNET50 else recipe)
    size = batch_size or (256 if recipe == RESNET50 else found.batch_size)
    found = msgspec.structs.replace(found, batch_size=size)
    half = "bf16" if where.type == "cuda" else "fp32"
    bench = Bench(recipe, found, resolve(precision or half, half, where), where, rounds, window, profile)
    for mode in modes.split(","):
        if mode not in ("eager", "compiled", "graph"):
            raise UserError(f"unknown mode {mode!r}; choose of eager, compiled, graph")
        against = reason_against(where, 1, True)
        if mode == "graph" and against:
            raise UserError(f"no CUDA graph: {against}; leave graph out of --modes")
        for row in measure(bench, mode, names):
            line = msgspec.json.encode(row).decode()
            click.echo(line if as_json else _tell(row))
            if out is not None:
                with out.open("a") as stream:
                    stream.write(line + "\n")


def _tell(row: SpeedRow) -> str:
    overhead = "" if row.overhead_percent is None else f"  {row.overhead_percent:+.1f} % against dense"
    speed = f"{row.images_per_s:9.1f} images/s +-{row.spread_percent:.1f} %"
    step = f"step {row.step_ms:.2f} ms, issued in {row.issue_ms:.2f}, run {row.run_hours:.2f} h"
    return f"{row.recipe} {row.mode:9} {row.method:12} {speed}  {step}{overhead}"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
