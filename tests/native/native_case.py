"""Writes a network's generated source and data for the driver, builds the driver around it, and runs it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
from support import answers, export_module
from torch import nn

from compile.backend import AS_MODELLED
from compile.backends import native
from compile.from_checkpoint import TorchNetwork
from compile.native.emit import Source, emit
from compile.native.isa import Isa, isa_for
from compile.native.plan import Plan
from compile.native.schedule import Schedule
from compile.native.toolchain import build_program
from runtime.abi import WEIGHT_FILE, batch_folder
from runtime.artifact import Target
from runtime.steps import StepInfo

DRIVER = Path(__file__).parent / "driver.cpp"
GAP = 8192  # bytes between two tensors that lie apart

NATIVE = isa_for("native")


class Case(msgspec.Struct, frozen=True):
    """What the driver is given; ``picture`` and ``result`` are the floats of one picture and of its outputs."""

    folder: Path
    source: Path
    isa: Isa
    batch_size: int
    picture: int
    result: int
    steps: tuple[StepInfo, ...]


def write_case(
    folder: Path,
    module: nn.Module,
    shape: tuple[int, int, int],
    batch_size: int,
    isa: Isa = NATIVE,
    apart: bool = False,
) -> Case:
    """Generate a network. ``apart``: no two tensors share memory or touch, and what lies between is told the driver."""
    gaps: list[tuple[int, int]] = []
    steps: list[StepInfo] = []

    def emit_apart(plan: Plan, schedules: dict[str, Schedule], which: Isa) -> Source:
        if apart:
            plan, found = lay_apart(plan)
            gaps[:] = found
        source = emit(plan, schedules, which)
        steps[:] = source.steps
        return source

    target = Target("cpu", isa.name, isa.dtype, batch_size, 1)
    nothing = dict.fromkeys(("start", "library"), mock.DEFAULT)
    # nothing is built, so that nothing can be measured
    unmeasured = mock.patch.object(native, "_deviations", return_value=())
    with unmeasured, mock.patch.object(native, "emit", emit_apart), mock.patch.multiple(native.Builder, **nothing):
        native.build(TorchNetwork(export_module(module, shape), shape, batch_size), target, folder, AS_MODELLED)
    inputs = np.random.default_rng(11).standard_normal((batch_size, *shape)).astype(np.float32)
    # one output after another, each of the whole batch
    expected = np.concatenate([output.ravel() for output in answers(module, inputs).values()])
    place = batch_folder(batch_size)
    (folder / "payload" / place / WEIGHT_FILE).rename(folder / "weights.bin")
    (folder / "inputs.bin").write_bytes(inputs.tobytes())
    (folder / "expected.bin").write_bytes(expected.astype(np.float32).tobytes())
    (folder / "gaps.bin").write_bytes(np.array(gaps, "<i8").tobytes())
    source = folder / "source" / place / "all.cpp"
    source.write_text("".join(f'#include "{path}"\n' for path in sorted(source.parent.glob("*.cpp"))))
    sizes = inputs.size // batch_size, expected.size // batch_size
    return Case(folder, source, isa, batch_size, *sizes, tuple(steps))


def lay_apart(plan: Plan) -> tuple[Plan, list[tuple[int, int]]]:
    """The plan with every tensor in memory of its own, and the stretches between them: start and length in bytes."""
    offsets, gaps, at = {}, [(0, GAP)], GAP
    wholes = [name for name in plan.tensors if name not in plan.slices]
    for name in wholes:
        offsets[name] = at
        end = at + plan.tensors[name].size
        at = -(-end // 4096) * 4096 + GAP
        gaps.append((end, at - end))
    for name in plan.offsets.keys() - set(wholes):
        owner = plan.owner(name)
        offsets[name] = offsets[owner] + plan.offsets[name] - plan.offsets[owner]
    return msgspec.structs.replace(plan, offsets=offsets, size=at), gaps


def build_driver(case: Case, flags: Sequence[str] = ()) -> Path:
    """Compile the driver with the case's network in it."""
    program = case.folder / "driver"
    network = f'-DNETWORK="{case.source}"'
    build_program(DRIVER, program, case.isa, (network, "-fno-access-control", "-Wno-unused-function", *flags))
    return program


def run_driver(case: Case, program: Path, threads: Sequence[int], emulator: Sequence[str] = ()) -> float:
    """The result's deviation from torch's; an ``AssertionError`` with what the driver wrote if it did not like it."""
    numbers = (case.batch_size, case.picture, case.result, *threads)
    done = subprocess.run(
        [*emulator, str(program), str(case.folder), *map(str, numbers)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"ASAN_OPTIONS": "detect_stack_use_after_return=1", "TSAN_OPTIONS": "halt_on_error=1"},
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return float(done.stdout.split()[-1])


def why_not(flags: Sequence[str], folder: Path) -> str | None:
    """Why programs built with these flags cannot be built or run here; ``None`` if they can."""
    source = folder / "empty.cpp"
    source.write_text("int main() {}\n")
    try:
        build_program(source, folder / "empty", isa_for("portable"), tuple(flags))
    except Exception as error:  # whatever is wrong is the reason
        return f"{platform.machine()}: {error}"
    done = subprocess.run([str(folder / "empty")], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"the sanitizer does not run here: {done.stderr.strip()[:200]}"
