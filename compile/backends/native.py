"""Our own CPU code generator: C++ for this network, compiled to a shared library beside its packed weights."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec
import numpy as np

from compile.backend import Built, Effort, LayerFacts
from compile.graph import Conv
from compile.half import underflows
from compile.native.builder import Builder
from compile.native.emit import Source, emit
from compile.native.isa import cache_bytes, isa_for
from compile.native.plan import Plan
from compile.native.schedule import Schedule, options, useful_joins, without_joins
from compile.native.select import choose_plan
from compile.native.toolchain import compiler
from compile.native.trial import answers, open_library
from compile.native.tune import tune
from compile.network import Network
from compile.passes.simplify import simplify
from runtime.abi import LIBRARY_FILE, STEPS_FILE, WEIGHT_FILE, batch_folder
from runtime.artifact import GOLDEN_INPUTS, Requirements, Target, golden_output
from runtime.errors import UserError


def unable(device: str, dtype: str = "float32") -> str | None:
    """It builds for CPUs alone, in half precision where this one computes in it: the error is measured on the way."""
    if device != "cpu":
        return "the native backend generates C++ for CPUs; give --backend inductor for a GPU"
    if dtype == "float32":
        return None
    try:
        isa_for("native", dtype)
    except UserError as error:
        return str(error)
    return None


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
    isa = isa_for(target.architecture, target.dtype)
    compiler(isa.machine)  # a missing compiler is said before the work that precedes it
    graph = simplify(network.graph())
    chosen, plans = {}, {}
    with Builder(isa) as builder:
        for size in target.sizes:
            plan = choose_plan(graph, size, isa, cache_bytes(2, isa))
            plan, schedules = choose_schedules(plan, builder, target.threads, effort)
            effort.report(f"batch {size}: compiling the chosen version")
            place = batch_folder(size)
            write_network(emit(plan, schedules, isa), builder, folder / "payload" / place, folder / "source" / place)
            plans[size] = plan
            chosen[size] = {
                step.node.layer: (schedules[name].format, schedules[name].reason)
                for name, step in plan.convolutions().items()
                if isinstance(step.node, Conv)
            }
    needs = Requirements(system=platform.system(), machine=isa.machine or platform.machine(), cpu_flags=isa.cpu_flags)
    formats = merged_formats(chosen)
    if isa.dtype == "float32":
        return Built(engine="native", formats=formats, requirements=needs)
    facts = {layer.name: LayerFacts(underflows=underflows(layer.weight)) for layer in network.layers()}
    deviations = _deviations(plans, folder, target.threads)
    return Built(engine="native", formats=formats, requirements=needs, facts=facts, deviations=deviations)


def _deviations(plans: dict[int, Plan], folder: Path, threads: int) -> tuple[float, ...]:
    """``max|y - golden| / max|golden|`` of each output, the largest of all batch sizes; see ``Built``.

    Raises:
        UserError: an answer is not finite.
    """
    inputs = np.load(folder / GOLDEN_INPUTS)
    outputs = range(len(next(iter(plans.values())).graph.outputs))
    golden = [np.load(folder / golden_output(index)) for index in outputs]
    found = [0.0] * len(golden)
    for size, plan in plans.items():
        payload = folder / "payload" / batch_folder(size)
        library = open_library(payload / LIBRARY_FILE)
        for index, answer in enumerate(answers(library, (payload / WEIGHT_FILE).read_bytes(), plan, threads, inputs)):
            if not np.isfinite(answer).all():
                raise UserError(
                    "the network's answers are not finite in float16: some activation is larger than it holds; "
                    "leave --dtype out for float32"
                )
            wanted = golden[index][:size]
            largest = max(float(np.abs(wanted).max()), float(np.finfo(np.float32).tiny))
            error = float(np.abs(answer.reshape(wanted.shape) - wanted).max()) / largest
            found[index] = max(found[index], error)
    return tuple(found)


def write_network(source: Source, builder: Builder, payload: Path, text: Path) -> None:
    """Write the generated text and weights, and compile the library beside the weights."""
    payload.mkdir(parents=True)
    text.mkdir(parents=True)
    builder.start(source)  # the weights are packed meanwhile
    (payload / WEIGHT_FILE).write_bytes(source.weights())
    (payload / STEPS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(source.steps)) + b"\n")
    for name, content in source.files().items():
        (text / name).write_text(content, encoding="utf-8")
    builder.library(source, payload / LIBRARY_FILE)


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


def choose_schedules(plan: Plan, builder: Builder, threads: int, effort: Effort) -> tuple[Plan, dict[str, Schedule]]:
    """One schedule per convolution, by output name, and the plan with the joins that pay: measured, or by the model."""
    isa = builder.isa
    l1 = cache_bytes(1, isa)
    plan = without_joins(plan, useful_joins(plan, threads, cache_bytes(2, isa)))
    if effort.tune and isa.runnable:  # what this machine cannot run it cannot measure
        return tune(plan, builder, threads, l1, effort.report)
    return plan, {name: ranked[0] for name, ranked in options(plan, isa, l1).items()}
