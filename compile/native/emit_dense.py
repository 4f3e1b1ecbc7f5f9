"""Emits a dense convolution, with pixels or channels in the lanes."""

from __future__ import annotations

import numpy as np

from compile.graph import Conv
from compile.native.dense_schedule import task_rows
from compile.native.emit_conv import Tiling, conv_piece, shape_constants
from compile.native.pieces import Piece
from compile.native.plan import Plan
from compile.native.schedule import Schedule
from compile.native.steps import Compute
from compile.native.weights import WeightFile


def emit_dense_conv(plan: Plan, step: Compute, node: Conv, schedule: Schedule, file: WeightFile) -> Piece:
    """A convolution: one task per run of output rows and part of the output channels."""
    assert step.window is not None
    window, source, target = step.window, plan.tensors[step.inputs[0]], plan.tensors[node.output]
    rows = task_rows(plan, step, schedule.tile_rows)
    side_by_side = target.geometry.lane_channels
    constants = shape_constants(node, window, source, target, schedule) | {
        "int TASK_ROWS": str(rows),
        "int BLOCK": str(schedule.cut.block // side_by_side),
    }
    bias = np.zeros(target.channels * side_by_side, np.float32)
    bias[: len(node.bias)] = node.bias
    channels = f"cut.bounds[low] / {side_by_side}, (cut.bounds[high] + {side_by_side - 1}) / {side_by_side}"
    tiling = Tiling(-(-target.geometry.rows // rows), rows, "{}.run(block)", channels)
    return conv_piece(plan, step, node, schedule, constants, bias, tiling, file)
