"""Emits a convolution: its kernel as a unit, its packed weights, and the kernel's call."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.graph import Conv
from compile.native.geometry import Geometry, Placement
from compile.native.kernel_table import KERNELS, Kernel, cut_array
from compile.native.pieces import Piece, Unit, array, exchange, origin, struct, vector_macros
from compile.native.plan import Plan
from compile.native.schedule import Schedule
from compile.native.steps import Compute
from compile.native.taps import Taps
from compile.native.weights import WeightFile
from compile.native.window import Window
from runtime.steps import StepInfo


class Tiling(msgspec.Struct, frozen=True):
    """How a convolution becomes tasks: each has ``rows`` output rows, and runs ``call``.

    ``call`` is C++ with a place for the kernel; ``channels`` are the first and last channel for the halo exchange.
    """

    tasks: int
    rows: int
    call: str
    channels: str

    def order(self, target: Placement) -> str:
        """C++ of a task's block and part: neighbouring tasks, mostly one thread's, write to places near each other."""
        if target.by_channel:
            return f"const int part = task / {self.tasks}, block = task % {self.tasks};"
        return "const int block = task / parts, part = task % parts;"


def emit_conv(plan: Plan, step: Compute, node: Conv, schedule: Schedule, file: WeightFile) -> Piece:
    """A convolution: one task per block of output rows and part of the output channels."""
    assert step.window is not None
    source, target = plan.tensors[step.inputs[0]], plan.tensors[node.output]
    constants = shape_constants(node, step.window, source, target, schedule)
    blocks = -(-target.geometry.rows // schedule.tile_rows)
    tiling = Tiling(blocks, schedule.tile_rows, "each_tile<S>(block, {})", "cut.bounds[low], cut.bounds[high]")
    return conv_piece(plan, step, node, schedule, constants, node.bias, tiling, file)


def conv_piece(
    plan: Plan,
    step: Compute,
    node: Conv,
    schedule: Schedule,
    constants: dict[str, str],
    bias: NDArray[np.float32],
    tiling: Tiling,
    file: WeightFile,
) -> Piece:
    """A convolution whose shape ``constants`` describe: packs its weights and calls its kernel."""
    window, target = step.window, plan.tensors[node.output]
    assert window is not None
    kernel, taps = KERNELS[schedule.format], _taps(plan, step, node, window)
    constants = constants | kernel.constants(taps, node.weight.shape)
    operands = _operands(step, node)
    for letter, name in (("R", operands["residual"]), ("F", operands["factor"])):
        constants |= _operand_constants(letter, None if name is None else plan.tensors[name])
    unit = _unit(kernel, constants, tiling.call, target.geometry)

    def arrays() -> list[NDArray[Any]]:
        packed = file.packs.pack(schedule.format, node.weight, taps, schedule.cut)
        content = [
            file.reals(getattr(packed, attribute)) if kind == "real" else getattr(packed, attribute)
            for kind, attribute in kernel.arrays
        ]
        return [*content, cut_array(packed.chunks, packed.bounds)]

    first = file.add_later(len(kernel.arrays) + 1, arrays)
    places = ", ".join("nullptr" if name is None else f"arena + {origin(plan, name)}" for name in operands.values())
    setup = f"const Cut cut({array('int32_t', first + len(kernel.arrays))});\n"
    rows, tasks = tiling.rows, tiling.tasks
    done = f"block * {rows}, (block + 1 < {tasks} ? (block + 1) * {rows} : {target.geometry.rows})"
    source = origin(plan, step.inputs[0], -window.padding[0], -window.padding[1])
    body = (
        f"        {tiling.order(target)}\n"
        "        const int low = cut.groups * part / parts, high = cut.groups * (part + 1) / parts;\n"
        f"        {unit.name}({{weights, {first}, cut, arena + {source}, arena + {origin(plan, node.output)},\n"
        f"            {{{places}}}, {array('real', file.add_reals(bias))}, low, high}}, block);\n"
        + exchange(plan, node.output, done, tiling.channels)
    )
    comment = f"{node.layer}: {node.op} {node.weight.shape}, {schedule.format}: {schedule.reason}"
    macs = int(np.count_nonzero(node.weight)) * target.geometry.height * target.geometry.width
    info = StepInfo(node.output, schedule.format, node.layer, macs * plan.images * plan.groups)
    return Piece(info, {}, f"{tasks}", body, comment, setup, parts="cut.groups", unit=unit)


def _unit(kernel: Kernel, constants: dict[str, str], call: str, geometry: Geometry) -> Unit:
    """The kernel for one shape, of which the network knows the name alone."""
    digest = hashlib.sha256(repr((kernel.call(), call, geometry.lanes, geometry.item, constants)).encode()).hexdigest()
    name = f"{kernel.name}_{digest[:12]}"
    lines = [
        "// Generated; what the names mean is said in the headers.",
        *vector_macros(geometry.lanes, geometry.item),
        f'#include "{kernel.header or kernel.name}.h"',
        "namespace st3 {",
        "namespace {",
        struct(f"Shape_{name}", constants),
        "}  // namespace",
        f"void {name}(const Work& work, int block) {{",
        f"  using S = Shape_{name};",
        f"  {call.format(kernel.call())};",
        "}",
        "}  // namespace st3",
        "",
    ]
    return Unit(name, "\n".join(lines))


def _taps(plan: Plan, step: Compute, node: Conv, window: Window) -> Taps:
    source = plan.tensors[step.inputs[0]]
    return Taps(
        node.weight.shape[1] * node.groups,
        node.groups,
        source.channel_stride,
        window.dilation[0] * source.row_stride,
        window.dilation[1] * source.vector,
        source.vector,
        source.geometry.lane_channels,
        source.geometry.item,
    )


def shape_constants(
    node: Conv,
    window: Window,
    source: Placement,
    target: Placement,
    schedule: Schedule,
) -> dict[str, str]:
    """What the kernels must know of a shape; the strides are in bytes."""
    return {
        "int ROWS": str(target.geometry.rows),
        "int COLUMNS": str(target.geometry.columns),
        "int TILE_ROWS": str(schedule.tile_rows),
        "int TILE_COLUMNS": str(schedule.tile_columns),
        "int BLOCK": str(schedule.cut.block),
        "int CHANNELS": str(target.channels),
        "long X_ROW": str(window.stride[0] * source.row_stride),
        "long X_COLUMN": str(window.stride[1] * source.vector),
        "long Y_ROW": str(target.row_stride),
        "long Y_CHANNEL": str(target.channel_stride),
        "Activation ACTIVATION": node.activation.upper(),
    }


def _operands(step: Compute, node: Conv) -> dict[str, str | None]:
    """The tensors that hold the residual and the factor; ``step.inputs`` has those that the node has, in this order."""
    given = iter(step.inputs[1:])
    return {key: None if getattr(node, key) is None else next(given) for key in ("residual", "factor")}


def _operand_constants(letter: str, operand: Placement | None) -> dict[str, str]:
    """What the kernels must know of the residual, ``R``, or the factor, ``F``."""
    name = {"R": "RESIDUAL", "F": "FACTOR"}[letter]
    return {
        f"bool {name}": "false" if operand is None else "true",
        f"long {letter}_ROW": str(0 if operand is None else operand.row_stride),
        f"long {letter}_CHANNEL": str(0 if operand is None else operand.channel_stride),
    }
