"""Our own CPU code generator: C++ for this network, compiled to a shared library beside its packed weights."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec

from compile.backend import Built, Effort
from compile.graph import Conv
from compile.native.emit import Source, emit
from compile.native.isa import Isa, cache_bytes, isa_for
from compile.native.plan import Plan
from compile.native.schedule import Schedule, options, useful_joins, without_joins
from compile.native.select import choose_plan
from compile.native.toolchain import build_library, compiler
from compile.native.tune import tune
from compile.network import Network
from compile.passes.simplify import simplify
from runtime.abi import LIBRARY_FILE, STEPS_FILE, WEIGHT_FILE, batch_folder
from runtime.artifact import Requirements, Target


def unable(device: str) -> str | None:
    """It builds for CPUs alone."""
    return None if device == "cpu" else "the native backend generates C++ for CPUs; give --backend inductor for a GPU"


def architecture(wanted: str, device: str = "cpu") -> str:
    """The instruction set's own name."""
    del device
    return isa_for(wanted).name


def uses_zeros(device: str = "cpu") -> bool:
    """Zeros are not stored and not computed."""
    del device
    return True


def several_batch_sizes() -> bool:
    """Each batch size has a library and packed weights of its own."""
    return True


def build(network: Network, target: Target, folder: Path, effort: Effort) -> Built:
    """Generate, pack and compile, once per batch size.

    Raises:
        UserError: an operator is missing, or there is no C++ compiler.
    """
    isa = isa_for(target.architecture)
    compiler(isa.machine)  # a missing compiler is said before the work that precedes it
    graph = simplify(network.graph())
    chosen = {}
    for size in target.sizes:
        plan = choose_plan(graph, size, isa, cache_bytes(2, isa))
        plan, schedules = choose_schedules(plan, isa, target.threads, effort)
        effort.report(f"batch {size}: compiling the chosen version")
        place = batch_folder(size)
        write_network(emit(plan, schedules, isa), isa, folder / "payload" / place, folder / "source" / place)
        chosen[size] = {
            step.node.layer: (schedules[name].format, schedules[name].reason)
            for name, step in plan.convolutions().items()
            if isinstance(step.node, Conv)
        }
    needs = Requirements(system=platform.system(), machine=isa.machine or platform.machine(), cpu_flags=isa.cpu_flags)
    return Built(engine="native", formats=merged_formats(chosen), requirements=needs)


def write_network(source: Source, isa: Isa, payload: Path, text: Path) -> None:
    """Write the generated text and weights, and compile the library beside the weights."""
    payload.mkdir(parents=True)
    text.mkdir(parents=True)
    (payload / WEIGHT_FILE).write_bytes(source.weights)
    (payload / STEPS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(source.steps)) + b"\n")
    (text / "network.cpp").write_text(source.text, encoding="utf-8")
    build_library(text / "network.cpp", payload / LIBRARY_FILE, isa)


def merged_formats(chosen: dict[int, dict[str, tuple[str, str]]]) -> dict[str, tuple[str, str]]:
    """Per layer its format and the reason; both by batch size where the sizes differ."""
    merged = {}
    for layer in chosen[min(chosen)]:
        by_size = {size: formats[layer] for size, formats in chosen.items()}
        distinct = dict.fromkeys(by_size.values())
        if len({form for form, _ in distinct}) == 1:
            merged[layer] = next(iter(distinct))
        else:
            merged[layer] = (
                ", ".join(f"batch {size}: {form}" for size, (form, _) in by_size.items()),
                ", ".join(f"batch {size}: {reason}" for size, (_, reason) in by_size.items()),
            )
    return merged


def choose_schedules(plan: Plan, isa: Isa, threads: int, effort: Effort) -> tuple[Plan, dict[str, Schedule]]:
    """One schedule per convolution, by output name, and the plan with the joins that pay: measured, or by the model."""
    l1 = cache_bytes(1, isa)
    plan = without_joins(plan, useful_joins(plan, threads, cache_bytes(2, isa)))
    if effort.tune and isa.runnable:  # what this machine cannot run it cannot measure
        return tune(plan, isa, threads, l1, effort.report)
    return plan, {name: ranked[0] for name, ranked in options(plan, isa, l1).items()}
