"""Emits the steps that only move data: relayouts, and the result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compile.native.geometry import blend_table, gather_table, scatter_table
from compile.native.pieces import Piece, array, literal
from compile.native.plan import Plan
from compile.native.steps import Gather, Scatter
from compile.native.weights import WeightFile
from runtime.steps import StepInfo

_RUN = 32  # channels of a task
_WORTH = 0.5  # of a vector's lanes: with fewer vectors of the source on average they are blended, not gathered


def emit_gather(plan: Plan, step: Gather, file: WeightFile) -> Piece:
    """A relayout: one task per row of the target, halo included, and run of 32 channels."""
    target = plan.tensors[step.target]
    shape = plan.graph.shapes[step.source]
    source = shape if step.plain else plan.tensors[step.source]
    table = gather_table(source, target, step.step)
    plane = 4 * shape[1] * shape[2] * target.geometry.lane_channels
    stride = plane if isinstance(source, tuple) else source.channel_stride
    constants = {
        "int NUMBERS": str(target.width * target.geometry.lanes),
        "int WIDTH": str(target.width),
        "long SOURCE_CHANNEL": str(stride),
        "long TARGET_CHANNEL": str(target.channel_stride),
        "long TARGET_ROW": str(target.row_stride),
        "real FILL": literal(target.fill),
    }
    runs = -(-target.channels // _RUN)
    function, place, tables = _relayout(plan, step, table, file)
    body = (
        f"      const int low = task % {runs} * {_RUN};\n"
        f"      const int high = low + {_RUN} < {target.channels} ? low + {_RUN} : {target.channels};\n"
        f"      {function}({place}, arena + {plan.offsets[step.target]},\n"
        f"          {tables}, task / {runs}, low, high);\n"
    )
    tasks = str(table.shape[0] * runs)
    return Piece(StepInfo(step.target, "relayout"), constants, tasks, body, f"relayout of {step.source}")


def _relayout(plan: Plan, step: Gather, table: NDArray[np.int32], file: WeightFile) -> tuple[str, str, str]:
    """C++ of the function that moves a row, of where the source begins, and of the tables."""
    if step.plain:
        return "gather_row<S, float>", "reinterpret_cast<const char*>(input)", array("int32_t", file.add(table))
    place = f"arena + {plan.offsets[step.source]}"
    source, target = plan.tensors[step.source].geometry, plan.tensors[step.target].geometry
    if source.lanes == target.lanes > 1:
        blends, start = blend_table(table, target)
        if len(blends) <= (len(start) - 1) * target.lanes * _WORTH:
            return "blend_row<S>", place, f"{array('Blend', file.add(blends))}, {array('int32_t', file.add(start))}"
    return "gather_row<S, real>", place, array("int32_t", file.add(table))


def emit_scatter(plan: Plan, step: Scatter, file: WeightFile) -> Piece:
    """A result, written to the caller: one task per 64 channels."""
    source = plan.tensors[step.source]
    geometry, channels = source.geometry, plan.graph.shapes[plan.graph.outputs[step.index]][0]
    constants = {
        "int CHANNELS": str(channels),
        "int LANE_CHANNELS": str(geometry.lane_channels),
        "int IMAGES": str(geometry.images),
        "int PIXELS": str(geometry.height * geometry.width),
        "long SOURCE_CHANNEL": str(source.channel_stride),
    }
    body = (
        f"      for (int channel = task * 64; channel < S::CHANNELS && channel < task * 64 + 64; channel++)\n"
        f"        scatter_channel<S>(arena + {plan.offsets[step.source]}, outputs[{step.index}],\n"
        f"            {array('int32_t', file.add(scatter_table(source)))}, channel);\n"
    )
    info = StepInfo(step.source, "result")
    return Piece(info, constants, str(-(-channels // 64)), body, f"result from {step.source}")
