"""Our own CPU code generator: C++ for this network, compiled to a shared library beside its packed weights."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec

from compile.backend import Built
from compile.capture import Captured
from compile.from_torch import read_graph
from compile.graph import Conv
from compile.native.emit import emit
from compile.native.isa import cache_bytes, isa_for
from compile.native.plan import Compute, Plan
from compile.native.schedule import Schedule, schedule_conv
from compile.native.select import choose_plan
from compile.native.toolchain import build_library
from compile.passes.fuse_epilogue import fuse_epilogue
from runtime.abi import LIBRARY_FILE, STEPS_FILE, WEIGHT_FILE
from runtime.artifact import Requirements, Target


def architecture(isa: str) -> str:
    """The instruction set's own name."""
    return isa_for(isa).name


def uses_zeros() -> bool:
    """Zeros are not stored and not computed."""
    return True


def build(captured: Captured, target: Target, folder: Path) -> Built:
    """Generate, pack and compile.

    Raises:
        UserError: an operator is missing, or there is no C++ compiler.
    """
    isa = isa_for(target.architecture)
    graph = fuse_epilogue(read_graph(captured))
    plan = choose_plan(graph, target.batch_size, isa, cache_bytes(2))
    schedules = choose_schedules(plan, target.architecture)
    source = emit(plan, schedules, isa)
    payload, text = folder / "payload", folder / "source" / "network.cpp"
    payload.mkdir(parents=True)
    text.parent.mkdir()
    (payload / WEIGHT_FILE).write_bytes(source.weights)
    (payload / STEPS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(source.steps)) + b"\n")
    text.write_text(source.text, encoding="utf-8")
    build_library(text, payload / LIBRARY_FILE, isa)
    chosen = {
        step.node.layer: (schedules[step.node.output].format, schedules[step.node.output].reason)
        for step in plan.steps
        if isinstance(step, Compute) and isinstance(step.node, Conv)
    }
    needs = Requirements(system=platform.system(), machine=platform.machine(), cpu_flags=isa.cpu_flags)
    return Built(engine="native", formats=chosen, requirements=needs)


def choose_schedules(plan: Plan, architecture: str) -> dict[str, Schedule]:
    """One schedule per convolution of a plan, by output name."""
    isa, l1 = isa_for(architecture), cache_bytes(1)
    schedules = {}
    for step in plan.steps:
        if isinstance(step, Compute) and isinstance(step.node, Conv):
            assert step.window is not None
            source, target = plan.tensors[step.inputs[0]], plan.tensors[step.node.output]
            schedules[step.node.output] = schedule_conv(step.node, step.window, source, target, isa, l1)
    return schedules
