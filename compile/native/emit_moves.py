"""Emits the steps without weights: relayouts, the result, pooling, the mean, additions."""

from __future__ import annotations

import numpy as np

from compile.graph import Elementwise, Pool
from compile.native.geometry import Placement, gather_table, inside_masks, scatter_table
from compile.native.pieces import Piece, array, exchange, literal, origin
from compile.native.plan import Compute, Gather, Plan, Scatter
from compile.native.weights import WeightFile
from runtime.steps import StepInfo


def emit_gather(plan: Plan, step: Gather, file: WeightFile) -> Piece:
    """A relayout: one task per row of the target, halo included."""
    target = plan.tensors[step.target]
    shape = plan.graph.shapes[step.source]
    source = shape if step.plain else plan.tensors[step.source]
    table = gather_table(source, target, step.step)
    stride = 4 * shape[1] * shape[2] if isinstance(source, tuple) else source.channel_stride
    place = "reinterpret_cast<const char*>(input)" if step.plain else f"arena + {plan.offsets[step.source]}"
    constants = {
        "int WIDTH": str(target.width),
        "int CHANNELS": str(target.channels),
        "long SOURCE_CHANNEL": str(stride),
        "long TARGET_CHANNEL": str(target.channel_stride),
        "long TARGET_ROW": str(target.row_stride),
        "float FILL": literal(target.fill),
    }
    body = (
        f"      gather_row<S>({place}, arena + {plan.offsets[step.target]},\n"
        f"          {array('int32_t', file.add(table))}, task);\n"
    )
    return Piece(StepInfo(step.target, "relayout"), constants, str(table.shape[0]), body, f"relayout of {step.source}")


def emit_scatter(plan: Plan, step: Scatter, file: WeightFile) -> Piece:
    """The result, written to the caller: one task per 64 channels."""
    source = plan.tensors[step.source]
    geometry = source.geometry
    constants = {
        "int CHANNELS": str(source.channels),
        "int IMAGES": str(geometry.images),
        "int PIXELS": str(geometry.height * geometry.width),
        "long SOURCE_CHANNEL": str(source.channel_stride),
    }
    body = (
        f"      for (int channel = task * 64; channel < S::CHANNELS && channel < task * 64 + 64; channel++)\n"
        f"        scatter_channel<S>(arena + {plan.offsets[step.source]}, output,\n"
        f"            {array('int32_t', file.add(scatter_table(source)))}, channel);\n"
    )
    info = StepInfo(step.source, "result")
    return Piece(info, constants, str(-(-source.channels // 64)), body, f"result from {step.source}")


def emit_pool(plan: Plan, step: Compute, node: Pool) -> Piece:
    """A pooling window."""
    assert step.window is not None
    window, source, target = step.window, plan.tensors[step.inputs[0]], plan.tensors[node.output]
    offsets = [
        r * window.dilation[0] * source.row_stride + s * window.dilation[1] * source.vector
        for r in range(node.kernel[0])
        for s in range(node.kernel[1])
    ]
    constants = _row_constants(target) | {
        "bool MAXIMUM": "true" if node.maximum else "false",
        "float FACTOR": literal(1.0 / len(offsets)),
        "int TAPS": str(len(offsets)),
        f"long OFFSET[{len(offsets)}]": "{" + ", ".join(map(str, offsets)) + "}",
        "long X_ROW": str(window.stride[0] * source.row_stride),
        "long X_COLUMN": str(window.stride[1] * source.vector),
        "long X_CHANNEL": str(source.channel_stride),
    }
    start = origin(plan, step.inputs[0], -window.padding[0], -window.padding[1])
    call = f"pool_row<S>(arena + {start}, arena + {origin(plan, node.output)}, row, channel)"
    return _per_row(plan, node.output, constants, call, "max_pool" if node.maximum else "average_pool")


def emit_add(plan: Plan, step: Compute, node: Elementwise) -> Piece:
    """An addition, or an activation on its own."""
    left, target = plan.tensors[step.inputs[0]], plan.tensors[node.output]
    right = plan.tensors[step.inputs[1]] if len(step.inputs) > 1 else None
    constants = _row_constants(target) | {
        "bool BINARY": "true" if right else "false",
        "long A_ROW": str(left.row_stride),
        "long A_CHANNEL": str(left.channel_stride),
        "long B_ROW": str(right.row_stride if right else 0),
        "long B_CHANNEL": str(right.channel_stride if right else 0),
        "Activation ACTIVATION": node.activation.upper(),
    }
    second = f"arena + {origin(plan, step.inputs[1])}" if right else "nullptr"
    first, result = origin(plan, step.inputs[0]), origin(plan, node.output)
    call = f"add_row<S>(arena + {first}, {second}, arena + {result}, row, channel)"
    return _per_row(plan, node.output, constants, call, "elementwise")


def emit_mean(plan: Plan, step: Compute, file: WeightFile) -> Piece:
    """The mean of each channel: one task per 16 channels."""
    source, target = plan.tensors[step.inputs[0]], plan.tensors[step.node.output]
    geometry = source.geometry
    constants = {
        "int ROWS": str(geometry.rows),
        "int COLUMNS": str(geometry.columns),
        "int IMAGES": str(geometry.images),
        "int LANES_PER_IMAGE": str(geometry.lane_rows * geometry.lane_columns),
        "float FACTOR": literal(float(np.float32(1.0 / (geometry.height * geometry.width)))),
        "long X_ROW": str(source.row_stride),
        "long X_CHANNEL": str(source.channel_stride),
        "long Y_CHANNEL": str(target.channel_stride),
    }
    body = (
        f"      for (int channel = task * 16; channel < {source.channels} && channel < task * 16 + 16; channel++)\n"
        f"        mean_channel<S>(arena + {origin(plan, step.inputs[0])}, arena + {origin(plan, step.node.output)},\n"
        f"            {array('int32_t', file.add(inside_masks(source)))}, channel);\n"
        + exchange(
            plan,
            step.node.output,
            "0, 1",
            f"task * 16, (task < {source.channels // 16} ? task * 16 + 16 : {source.channels})",
        )
    )
    info = StepInfo(step.node.output, "mean")
    return Piece(info, constants, str(-(-source.channels // 16)), body, f"mean of {step.inputs[0]}")


def _row_constants(target: Placement) -> dict[str, str]:
    return {
        "int COLUMNS": str(target.geometry.columns),
        "long Y_ROW": str(target.row_stride),
        "long Y_CHANNEL": str(target.channel_stride),
    }


def _per_row(plan: Plan, output: str, constants: dict[str, str], call: str, kernel: str) -> Piece:
    """A step without weights: one task per row and run of 32 channels."""
    target = plan.tensors[output]
    runs = -(-target.channels // 32)
    body = (
        f"      const int row = task / {runs}, low = task % {runs} * 32;\n"
        f"      const int high = low + 32 < {target.channels} ? low + 32 : {target.channels};\n"
        f"      for (int channel = low; channel < high; channel++) {call};\n"
        + exchange(plan, output, "row, row + 1", "low, high")
    )
    info = StepInfo(output, kernel)
    return Piece(info, constants, str(target.geometry.rows * runs), body, f"{kernel} {output}")
