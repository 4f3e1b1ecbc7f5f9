"""Emits a dense convolution with channels in the lanes."""

from __future__ import annotations

import numpy as np

from compile.format import find_format
from compile.graph import Conv
from compile.native.channel_schedule import task_rows
from compile.native.emit_conv import operand_constants, operands_of
from compile.native.kernel_table import KERNELS, cut_array
from compile.native.pieces import Piece, array, exchange, origin
from compile.native.plan import Compute, Plan
from compile.native.schedule import Schedule
from compile.native.taps import Taps
from compile.native.weights import WeightFile
from runtime.steps import StepInfo


def emit_channel_conv(plan: Plan, step: Compute, node: Conv, schedule: Schedule, file: WeightFile) -> Piece:
    """A convolution: one task per run of output rows and part of the output channels."""
    assert step.window is not None
    window, source, target = step.window, plan.tensors[step.inputs[0]], plan.tensors[node.output]
    operands = operands_of(step, node)
    rows = task_rows(plan, step, schedule.tile_rows)
    tasks = -(-target.geometry.rows // rows)
    constants = {
        "int ROWS": str(target.geometry.rows),
        "int COLUMNS": str(target.geometry.columns),
        "int TASK_ROWS": str(rows),
        "int TILE_ROWS": str(schedule.tile_rows),
        "int TILE_COLUMNS": str(schedule.tile_columns),
        "int BLOCK": str(schedule.cut.block // target.geometry.lanes),
        "int VECTORS": str(target.channels),
        "long X_ROW": str(window.stride[0] * source.row_stride),
        "long X_COLUMN": str(window.stride[1] * source.vector),
        "long Y_ROW": str(target.row_stride),
        "long Y_CHANNEL": str(target.channel_stride),
        "Activation ACTIVATION": node.activation.upper(),
    }
    for letter, name in (("R", operands["residual"]), ("F", operands["factor"])):
        constants |= operand_constants(letter, None if name is None else plan.tensors[name])
    kernel = KERNELS[schedule.format]
    packed = find_format(schedule.format).pack(node.weight, _taps(plan, step, node), schedule.cut)
    constants |= kernel.constants(packed)
    arrays = ", ".join(array(kind, file.add(content)) for kind, content in kernel.arrays(packed))
    bias = np.zeros(target.channels * target.geometry.lanes, np.float32)
    bias[: len(node.bias)] = node.bias
    cut = file.add(cut_array(packed.chunks, packed.bounds))
    places = ", ".join("nullptr" if name is None else f"arena + {origin(plan, name)}" for name in operands.values())
    setup = f"const Cut cut({array('int32_t', cut)});\n"
    done = f"run * S::TASK_ROWS, (run + 1 < {tasks} ? (run + 1) * S::TASK_ROWS : S::ROWS)"
    body = (
        "        const int run = task / parts, part = task % parts;\n"
        "        const int low = cut.groups * part / parts, high = cut.groups * (part + 1) / parts;\n"
        f"        {kernel.type}<S>{{{arrays}, cut,\n"
        f"            arena + {origin(plan, step.inputs[0], -window.padding[0], -window.padding[1])},\n"
        f"            arena + {origin(plan, node.output)}, {{{places}}},\n"
        f"            {array('float', file.add(bias))}, low, high}}.run(run);\n"
        + exchange(plan, node.output, done, "cut.bounds[low] / LANES, (cut.bounds[high] + LANES - 1) / LANES")
    )
    macs = int(np.count_nonzero(node.weight)) * target.geometry.height * target.geometry.width
    info = StepInfo(node.output, schedule.format, node.layer, macs * plan.images * plan.groups)
    comment = f"{node.layer}: {node.op} {node.weight.shape}, {schedule.format}: {schedule.reason}"
    return Piece(info, constants, f"{tasks}", body, comment, setup, parts="cut.groups")


def _taps(plan: Plan, step: Compute, node: Conv) -> Taps:
    window, source = step.window, plan.tensors[step.inputs[0]]
    assert window is not None
    return Taps(
        node.weight.shape[1] * node.groups,
        node.groups,
        source.channel_stride,
        window.dilation[0] * source.row_stride,
        window.dilation[1] * source.vector,
        source.vector,
        source.geometry.lane_channels,
    )
