"""Writes the C++ of a network: one struct of constants per step, and the function that runs the steps.

Convolutions are units, one for each shape and kernel, which are compiled by themselves: side by side, and once for all
the versions of a network that the tuner tries.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import msgspec

from compile.graph import AdaptivePool, Attention, Concat, Conv, LayerNorm, Mean, Move, Pool, Resize
from compile.native.emit_conv import emit_conv
from compile.native.emit_dense import emit_dense_conv
from compile.native.emit_elementwise import emit_elementwise, emit_layer_norm
from compile.native.emit_moves import emit_gather, emit_scatter
from compile.native.emit_pool import emit_adaptive_pool, emit_mean, emit_pool
from compile.native.emit_resize import emit_resize
from compile.native.emit_tokens import emit_attention, emit_move
from compile.native.isa import Isa
from compile.native.kernel_table import KERNELS
from compile.native.pieces import Piece, Unit, literal, struct, tensor_index, vector_macros
from compile.native.plan import Plan
from compile.native.schedule import Schedule
from compile.native.steps import Compute, Gather, Scatter, Step
from compile.native.weights import Packs, WeightFile
from runtime.abi import ABI_VERSION
from runtime.steps import StepInfo


class Source(msgspec.Struct, frozen=True):
    """Generated C++, the units that it calls, the list of its steps, and what packs its weight file."""

    text: str
    units: tuple[Unit, ...]
    steps: tuple[StepInfo, ...]
    weights: Callable[[], bytes]

    def files(self) -> dict[str, str]:
        """All of the text, by file name."""
        return {"network.cpp": self.text} | {f"{unit.name}.cpp": unit.text for unit in self.units}


def emit(plan: Plan, schedules: dict[str, Schedule], isa: Isa, packs: Packs | None = None) -> Source:
    """Generate the network; ``schedules`` has one entry per convolution, by output name; ``packs`` saves packing again.

    The text depends on the format and tile of each layer, not on how its weights are cut: sources that differ in
    nothing but ``Schedule.cut`` have the same text, and their weight files fit the same library.
    """
    packs = packs or Packs()
    file = WeightFile(packs, isa.dtype)
    tensors = {name: _tensor_struct(plan, name, file) for name in sorted(plan.clean)}
    pieces = [_piece(plan, step, schedules, isa, file) for step in plan.steps]
    runs = [tuple(pieces[i : i + 1 + (i + 1 in plan.joined)]) for i in range(len(pieces)) if i not in plan.joined]
    shapes = _shapes(pieces)
    body = [
        *(struct(f"Tensor{tensor_index(plan, name)}", constants, name) for name, constants in tensors.items()),
        *(struct(name, dict(constants)) for constants, name in shapes.items()),
        _network(plan, runs, shapes),
    ]
    units = {piece.unit.name: piece.unit for piece in pieces if piece.unit is not None}
    content = _content(plan, body, packs)
    lines = [
        "// Generated; what the names mean is said in the headers.",
        f"#define ST3_ABI_VERSION {ABI_VERSION}",
        *vector_macros(isa.lanes, isa.item),
        f"#define ST3_CONTENT {content:#x}ull",
        *(
            f'#include "{name}.h"'
            for name in ("model", "move", "tile", "pool", "resize", "elementwise", "layer_norm", "attention")
        ),
        "namespace st3 {",
        *(f"void {name}(const Work& work, int block);" for name in units),
        "}  // namespace st3",
        "namespace {",
        "using namespace st3;",
        *body,
        "}  // namespace",
        "ST3_ABI(Network)",
        "",
    ]
    infos = tuple(_joined_info(run) for run in runs)
    return Source("\n".join(lines), tuple(units.values()), infos, lambda: file.content(content))


def _shapes(pieces: list[Piece]) -> dict[tuple[tuple[str, str], ...], str]:
    """A name for each set of constants: layers of one shape share one struct, and so one piece of machine code."""
    found: dict[tuple[tuple[str, str], ...], str] = {}
    for piece in pieces:
        if piece.constants:
            found.setdefault(tuple(piece.constants.items()), f"Shape{len(found)}")
    return found


_ARRAYS: dict[type, tuple[str, ...]] = {
    Conv: ("weight", "bias"),
    LayerNorm: ("weight", "bias"),
    Move: ("positions", "shift"),
    Attention: ("scale", "bias"),
}
"""What a node computes with, beside the values that it reads."""


def _content(plan: Plan, body: list[str], packs: Packs) -> int:
    """A number that ties a library to the weight files it can run, however their weights are cut."""
    digest = hashlib.sha256("".join(body).encode())
    for step in plan.steps:
        if isinstance(step, Compute):
            for name in _ARRAYS.get(type(step.node), ()):
                values = getattr(step.node, name)
                digest.update(b"" if values is None else packs.digest(values))
    return int.from_bytes(digest.digest()[:8], "little")


def _piece(plan: Plan, step: Step, schedules: dict[str, Schedule], isa: Isa, file: WeightFile) -> Piece:
    if isinstance(step, Gather):
        return emit_gather(plan, step, file)
    if isinstance(step, Scatter):
        return emit_scatter(plan, step, file)
    node = step.node
    if isinstance(node, Conv):
        schedule = schedules[node.output]
        write = emit_dense_conv if KERNELS[schedule.format].dense else emit_conv
        return write(plan, step, node, schedule, file)
    if isinstance(node, Pool):
        return emit_pool(plan, step, node, file)
    if isinstance(node, AdaptivePool):
        return emit_adaptive_pool(plan, step, node, file)
    if isinstance(node, Mean):
        return emit_mean(plan, step, file)
    if isinstance(node, Resize):
        return emit_resize(plan, step, node, file)
    if isinstance(node, LayerNorm):
        return emit_layer_norm(plan, step, node, file)
    if isinstance(node, Move):
        return emit_move(plan, step, node, file)
    if isinstance(node, Attention):
        return emit_attention(plan, step, node, isa, file)
    assert not isinstance(node, Concat), "the plan makes copies of it"
    return emit_elementwise(plan, step, node)


def _network(plan: Plan, runs: list[tuple[Piece, ...]], shapes: dict[tuple[tuple[str, str], ...], str]) -> str:
    channels, height, width = plan.graph.shapes[plan.graph.input]
    outputs = [plan.images * math.prod(plan.graph.shapes[value]) for value in plan.graph.outputs]
    constants = {
        "int STEPS": str(len(runs)),
        "int GROUPS": str(plan.groups),
        "long ARENA": str(plan.size),
        "long INPUT_FLOATS": str(plan.images * channels * height * width),
        "int OUTPUTS": str(len(outputs)),
        f"long OUTPUT_FLOATS[{len(outputs)}]": f"{{{', '.join(map(str, outputs))}}}",
    }
    body = "".join(_run(index, run, shapes) for index, run in enumerate(runs))
    head = (
        "  static void run(const char* weights, Crew& crew, char* arena, const float* input, float* const* outputs) {\n"
    )
    fields = "".join(f"  static constexpr {key} = {value};\n" for key, value in constants.items())
    return f"struct Network {{\n{fields}{head}{body}  }}\n}};"


def _run(index: int, run: tuple[Piece, ...], shapes: dict[tuple[tuple[str, str], ...], str]) -> str:
    """One step; joined pieces follow each other inside each task, which is then not cut into parts."""
    if len(run) == 1:
        piece, tasks = run[0], run[0].tasks
        parts = f"const int parts = crew.parts({tasks}, {piece.parts});\n" if piece.parts else ""
        count = f"{tasks} * parts" if piece.parts else tasks
        name = shapes.get(tuple(piece.constants.items()))
        shape = f"      using S = {name};\n" if name else ""
        return (
            f"    {{  // {piece.comment}\n{shape}      {piece.setup}      {parts}"
            f"      crew.each({index}, {count}, [&](int task) {{\n{piece.body}      }});\n    }}\n"
        )
    assert len({piece.tasks for piece in run}) == 1, "joined pieces must have the same tiles"
    bodies = "".join(
        f"      {{  // {piece.comment}\n        {piece.setup}        const int parts = 1;\n{piece.body}      }}\n"
        for piece in run
    )
    return f"    crew.each({index}, {run[0].tasks}, [&](int task) {{\n{bodies}    }});\n"


def _joined_info(run: tuple[Piece, ...]) -> StepInfo:
    infos = [piece.info for piece in run]
    if len(infos) == 1:
        return infos[0]
    name, kernel, layer = (
        " + ".join(parts) for parts in zip(*((i.name, i.kernel, i.layer) for i in infos), strict=True)
    )
    return StepInfo(name, kernel, layer, sum(info.macs for info in infos))


def _tensor_struct(plan: Plan, name: str, file: WeightFile) -> dict[str, str]:
    placement = plan.tensors[name]
    edges, start = placement.edges()
    return {
        "long CHANNEL": str(placement.channel_stride),
        "real FILL": literal(placement.fill),
        "int EDGES": str(file.add(edges)),
        "int START": str(file.add(start)),
    }
