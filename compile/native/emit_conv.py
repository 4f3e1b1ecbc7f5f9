"""Emits a convolution: its constants, its packed weights, and the call of its kernel."""

from __future__ import annotations

import numpy as np

from compile.formats import dense, offset_stream
from compile.graph import Conv
from compile.native.geometry import Placement
from compile.native.pieces import Piece, exchange, origin
from compile.native.plan import Compute, Plan
from compile.native.schedule import Schedule
from compile.native.taps import Taps
from compile.native.weights import WeightFile
from compile.native.window import Window
from runtime.steps import StepInfo


def emit_conv(plan: Plan, step: Compute, node: Conv, schedule: Schedule, file: WeightFile) -> Piece:
    """A convolution: one task per block of output rows and group of output channels."""
    assert step.window is not None
    window, source, target = step.window, plan.tensors[step.inputs[0]], plan.tensors[node.output]
    residual = plan.tensors[step.inputs[1]] if len(step.inputs) > 1 else None
    blocks = -(-target.geometry.rows // schedule.tile_rows)
    taps = Taps(
        source.channels,
        node.groups,
        source.channel_stride,
        window.dilation[0] * source.row_stride,
        window.dilation[1] * source.vector,
    )
    constants = _constants(node, window, source, target, residual, schedule) | {"long BIAS": str(file.add(node.bias))}
    pack = _pack_dense if schedule.format == "dense" else _pack_stream
    kernel, bounds = pack(node, schedule, taps, constants, file)
    constants[f"int BOUNDS[{len(bounds)}]"] = "{" + ", ".join(map(str, bounds)) + "}"
    addend = f"arena + {origin(plan, step.inputs[1])}" if residual else "nullptr"
    rows = f"block * S::TILE_ROWS, (block + 1 < {blocks} ? (block + 1) * S::TILE_ROWS : S::ROWS)"
    body = (
        "      const int block = task / S::GROUPS, group = task % S::GROUPS;\n"
        f"      each_tile<S>(block, {kernel[0]}<S>{{weights,\n"
        f"          arena + {origin(plan, step.inputs[0], -window.padding[0], -window.padding[1])},\n"
        f"          arena + {origin(plan, node.output)}, {addend}, {kernel[1]}}});\n"
        + exchange(plan, node.output, rows, "S::BOUNDS[group], S::BOUNDS[group + 1]")
    )
    comment = f"{node.layer}: {node.op} {node.weight.shape}, {schedule.format}: {schedule.reason}"
    macs = int(np.count_nonzero(node.weight)) * target.geometry.height * target.geometry.width
    info = StepInfo(node.output, schedule.format, node.layer, macs * plan.images * plan.groups)
    return Piece(info, constants, str(blocks * schedule.cut.groups), body, comment)


def _constants(
    node: Conv,
    window: Window,
    source: Placement,
    target: Placement,
    residual: Placement | None,
    schedule: Schedule,
) -> dict[str, str]:
    """What both kernels must know; the strides are in bytes."""
    return {
        "int ROWS": str(target.geometry.rows),
        "int COLUMNS": str(target.geometry.columns),
        "int TILE_ROWS": str(schedule.tile_rows),
        "int TILE_COLUMNS": str(schedule.tile_columns),
        "int CHANNELS": str(target.channels),
        "long X_ROW": str(window.stride[0] * source.row_stride),
        "long X_COLUMN": str(window.stride[1] * source.vector),
        "long Y_ROW": str(target.row_stride),
        "long Y_CHANNEL": str(target.channel_stride),
        "bool RESIDUAL": "true" if residual else "false",
        "long R_ROW": str(residual.row_stride if residual else 0),
        "long R_CHANNEL": str(residual.channel_stride if residual else 0),
        "Activation ACTIVATION": node.activation.upper(),
        "int GROUPS": str(schedule.cut.groups),
    }


def _pack_stream(
    node: Conv, schedule: Schedule, taps: Taps, constants: dict[str, str], file: WeightFile
) -> tuple[tuple[str, str], list[int]]:
    packed = offset_stream.pack(node.weight, taps, schedule.cut)
    table = np.zeros(
        (len(packed.segments), len(packed.segments[0])),
        [("rows", "<i8"), ("entries", "<i8"), ("row_count", "<i4"), ("lines", "<i4")],
    )
    bounds = [0]
    for group, chunks in enumerate(packed.segments):
        for chunk, (rows, entries) in enumerate(chunks):
            table[group, chunk] = (file.add(rows), file.add(entries), len(rows) - 2, -(-entries.nbytes // 64 // max(1, len(rows) - 2)))
        bounds.append(bounds[-1] + len(chunks[0][0]) - 2)
    constants["int CHUNKS"] = str(table.shape[1])
    constants["long SEGMENTS"] = str(file.add(table))
    return ("OffsetStream", "group"), bounds


def _pack_dense(
    node: Conv, schedule: Schedule, taps: Taps, constants: dict[str, str], file: WeightFile
) -> tuple[tuple[str, str], list[int]]:
    packed = dense.pack(node.weight, taps, schedule.cut)
    total = packed.offsets.size
    constants["int BLOCK"] = str(schedule.cut.block)
    constants["int TAPS"] = str(total)
    constants["int CHUNK_TAPS"] = str(min(total, schedule.cut.chunk * (total // taps.channels)))
    constants["long OFFSETS"] = str(file.add(packed.offsets))
    constants["long MATRIX"] = str(file.add(packed.matrix))
    blocks = len(packed.matrix)
    bounds = [
        min(len(node.weight), blocks * part // schedule.cut.groups * schedule.cut.block)
        for part in range(schedule.cut.groups + 1)
    ]
    return ("Dense", "S::BOUNDS[group], S::BOUNDS[group + 1]"), bounds
