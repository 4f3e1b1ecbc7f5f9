"""Whole networks on a GPU: dense in every way that torch offers, and this compiler's, in one run and in turns.

``python scripts/bench_gpu.py resnet50:32 --weights 2to4 --out FOLDER`` appends JSON lines to FOLDER/networks.jsonl
(one per version of a network) and FOLDER/layers.jsonl (one per layer), and prints a table. Times are CUDA events around
replays of CUDA graphs. Without a GPU the same code runs on tiny pictures and times nothing that means anything.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import torch
from gpu_networks import network_of
from torch import Tensor, nn

from compile.backend import Effort
from compile.cuda import cost_model
from compile.cuda.body import open_body
from compile.cuda.build import Job, choose, settle, write
from compile.cuda.choice import Choice
from compile.cuda.errors import emulated
from compile.from_checkpoint import TorchNetwork
from runtime.artifact import Target
from runtime.cuda import gpu
from runtime.cuda.replay import Replay, replay_us

HERE = torch.cuda.is_available()
DEVICE = "cuda" if HERE else "cpu"
ROUNDS = 21 if HERE else 2
SIDE = 224 if HERE else 32
CLASSES = 1000
Function = Callable[[Tensor], object]


def say(text: str) -> None:
    """To the terminal, at once."""
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")


def baselines(network: TorchNetwork, autotune: bool) -> dict[str, Function]:
    """Dense in torch's own ways, batch normalisation folded, half precision, channels last."""
    # a copy: the program shares its parameters with what is compiled later
    module = copy.deepcopy(network.program().module(check_guards=False)).half().to(DEVICE)
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    lane = torch.float16

    def eager(x: Tensor) -> Tensor:
        result: Tensor = module(x.to(lane, memory_format=torch.channels_last))
        return result

    found: dict[str, Function] = {"eager": eager, "eager again": eager}
    if autotune:
        torch._inductor.config.freezing = True
        found["torch.compile max-autotune"] = torch.compile(eager, mode="max-autotune-no-cudagraphs")
    return found


def ours(
    network: TorchNetwork, batch: int, effort: Effort, package: bool
) -> tuple[Function, dict[str, Choice], Job, dict[str, float], str]:
    """What ``st3 compile`` would build, and why."""
    body = open_body(network, "float16")
    target = Target("cuda", gpu.architecture() or "sm_90", "float16", batch, 1)
    inputs = torch.randn(network.input_shape)
    job = Job(body, target, body.sites(batch, "float16"), inputs, (torch.empty(batch, CLASSES),), HERE)
    choices = choose(job, effort)
    times: dict[str, float] = {}
    note = "by the cost model"
    if HERE:
        choices, times, note = settle(job, choices, inputs.to(DEVICE))
    # a sparse layer's kernel is a GPU's: a rehearsal computes the same densely
    made: Function = job.network(job.layers(choices) if HERE else emulated(job.sites))
    if package and HERE:
        assert isinstance(made, nn.Module)
        with tempfile.TemporaryDirectory() as folder:
            made, form_note, form_times = write(made, inputs.to(DEVICE), Path(folder), effort)
        times, note = times | form_times, "; ".join(filter(None, (note, form_note)))
    return made, choices, job, times, note


def measure(networks: dict[str, Function], inputs: Tensor) -> dict[str, dict[str, list[float]]]:
    """Microseconds of each network per round, warm and with an emptied cache, as CUDA graphs; ``eager`` also without.

    Each round begins with another network; the call before the timed one keeps the GPU busy while that is started.
    """
    calls: dict[str, Callable[[], None]] = {}
    for name, network in networks.items():
        calls[name] = Replay(network, inputs).replay if HERE else _called(network, inputs)
    if HERE:
        calls["eager without a graph"] = _called(networks["eager"], inputs)
    found: dict[str, dict[str, list[float]]] = {name: {"us": [], "us_cold": []} for name in calls}
    for number in range(ROUNDS):
        order = [*list(calls)[number % len(calls) :], *list(calls)[: number % len(calls)]]
        for name in order:
            with torch.inference_mode():
                if HERE:
                    found[name]["us"].append(replay_us([calls[name]] * 3)[-1])
                    found[name]["us_cold"].append(replay_us([calls[name]] * 2, cold=True)[-1])
                else:
                    start = time.perf_counter()
                    calls[name]()
                    found[name]["us"].append((time.perf_counter() - start) * 1e6)
    return found


def _called(network: Function, inputs: Tensor) -> Callable[[], None]:
    def call() -> None:
        network(inputs)

    return call


def floor_us(job: Job, choices: dict[str, Choice], network: Function, inputs: Tensor) -> tuple[int, float, float]:
    """Kernels of one call, the time of as many that do nothing in one graph, and the sum of the layers' rooflines."""
    launch = cost_model.RATES[job.target.architecture].launch_us
    roofline = sum(row["roofline_us"] - launch for row in layer_rows(job, choices))
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.inference_mode(), torch.profiler.profile(activities=activities) as profile:
        network(inputs)
        torch.cuda.synchronize()
    count = sum(len(event.kernels) for event in profile.events())
    one = torch.zeros(1, device=DEVICE)

    def nothing(x: Tensor) -> Tensor:
        del x
        for _ in range(count):
            one.add_(1.0)
        return one

    empty = Replay(nothing, one).replay
    return count, sorted(replay_us([empty] * 20)[1:])[9], roofline


@contextlib.contextmanager
def clocks(path: Path) -> Iterator[None]:
    """Write the GPU's clocks, power and temperature four times a second while something runs."""
    fields = "timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,utilization.gpu"
    if not HERE or shutil.which("nvidia-smi") is None:
        yield
        return
    with path.open("a") as log:
        watcher = subprocess.Popen(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-lms", "250"], stdout=log
        )
        try:
            yield
        finally:
            watcher.terminate()
            watcher.wait()


def append(path: Path, row: dict[str, Any]) -> None:
    """One JSON line; what was measured before is never lost."""
    with path.open("ab") as stream:
        stream.write(msgspec.json.encode(row) + b"\n")


def layer_rows(job: Job, choices: dict[str, Choice]) -> Iterator[dict[str, Any]]:
    """The roofline table: what each layer has to move and to multiply, and how long it takes."""
    arch = job.target.architecture
    for name, site in job.sites.items():
        choice, problem = choices[name], site.problem
        macs = choice.macs_usable or problem.macs
        yield {
            "layer": site.layer,
            "problem": msgspec.to_builtins(problem),
            "density": float((site.weight != 0).float().mean()),
            "format": choice.candidate.describe(),
            "dense": choice.dense.describe(),
            "dense_us": choice.dense_us,
            "chosen_us": choice.chosen_us,
            "macs": problem.macs,
            "macs_usable": choice.macs_usable,
            "bytes": cost_model.traffic(problem, macs),
            "roofline_us": cost_model.layer_us(
                choice.candidate.format, problem, choice.macs_usable or problem.macs, arch
            ),
            "reason": choice.reason,
        }


def bench(name: str, batch: int, weights: tuple[str, ...], out: Path, autotune: bool, package: bool) -> list[str]:
    """All versions of one network at one batch size; lines of the table."""
    facts = {"network": name, "batch": batch, "gpu": gpu.name() or "CPU: a rehearsal", "versions": gpu.versions()}
    effort = Effort(HERE, lambda text: say(f"{name} batch {batch}: {text}"))
    dense = network_of(name, "dense", batch, SIDE)
    networks = baselines(dense, autotune)
    inputs = torch.randn(dense.input_shape, device=DEVICE)
    notes: dict[str, str] = {}
    for kind in ("dense", *weights):
        say(f"{name} batch {batch}: {kind}")
        network = dense if kind == "dense" else network_of(name, kind, batch, SIDE)
        made, choices, job, times, note = ours(network, batch, effort, package)
        title = f"st3 {kind}"
        networks[title] = made
        sparse = sum(not choice.is_dense for choice in choices.values())
        notes[title] = f"{sparse} of {len(choices)} layers sparse; {note}"
        append(out / "networks.jsonl", {"kind": "choice", **facts, "version": title, "note": notes[title], "us": times})
        for row in layer_rows(job, choices):
            append(out / "layers.jsonl", {**facts, "weights": kind, **row})
        if HERE:
            count, empty, roofline = floor_us(job, choices, made, inputs)
            row = {"kind": "floor", **facts, "version": title, "kernels": count, "empty_us": empty}
            append(out / "networks.jsonl", {**row, "roofline_us": roofline})
            notes[title] += f"; floor {empty + roofline:.0f} us ({count} kernels)"
    say(f"{name} batch {batch}: measuring {len(networks)} versions in turns")
    with clocks(out / "clocks.csv"):
        found = measure(networks, inputs)
    for title, samples in found.items():
        append(out / "networks.jsonl", {"kind": "time", **facts, "version": title, **samples})
    return table(name, batch, found, notes)


def table(name: str, batch: int, found: dict[str, dict[str, list[float]]], notes: dict[str, str]) -> list[str]:
    """Medians, and speed-ups over the fastest dense version of torch's."""
    median = {title: sorted(samples["us"])[len(samples["us"]) // 2] for title, samples in found.items()}
    base = min(us for title, us in median.items() if not title.startswith("st3"))
    twin = abs(median["eager again"] / median["eager"] - 1)
    lines = [f"{name} batch {batch} (A/A differ by {twin:.2%})"]
    return lines + [
        f"  {title:28} {us:10.1f} us  {base / us:5.2f}x  {notes.get(title, '')}" for title, us in median.items()
    ]


@click.command()
@click.argument("networks", nargs=-1, required=True)
@click.option("--weights", multiple=True, help="2to4, st3_95, u_90, ...; repeat for several.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the JSON lines.")
@click.option(
    "--autotune/--no-autotune", default=True, help="Whether torch.compile's max-autotune is measured (minutes)."
)
@click.option("--package/--no-package", default=False, help="Compile ours with AOTInductor, as an artifact is.")
def main(networks: tuple[str, ...], weights: tuple[str, ...], out: Path, autotune: bool, package: bool) -> None:
    """Measure NETWORKS, each NAME:BATCH of torchvision's, dense and with WEIGHTS."""
    torch.manual_seed(0)
    gpu.prepare("float16")
    out.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for item in networks:
        name, _, batch = item.partition(":")
        lines += bench(name, int(batch or 1), weights, out, autotune, package)
        if HERE:
            torch.cuda.empty_cache()
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
