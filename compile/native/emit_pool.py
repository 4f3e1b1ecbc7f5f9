"""Emits pooling: windows that step over a map, windows that cover it, and the mean of all pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compile.graph import AdaptivePool, Pool
from compile.native.geometry import Geometry, Placement, inside_masks, number_offset, some_pixels
from compile.native.pieces import Piece, array, exchange, literal, origin, output_constants, per_row
from compile.native.plan import Plan
from compile.native.steps import Compute
from compile.native.weights import WeightFile
from runtime.steps import StepInfo


def emit_pool(plan: Plan, step: Compute, node: Pool, file: WeightFile) -> Piece:
    """A pooling window."""
    assert step.window is not None
    window, source, target = step.window, plan.tensors[step.inputs[0]], plan.tensors[node.output]
    offsets = [
        r * window.dilation[0] * source.row_stride + s * window.dilation[1] * source.vector
        for r in range(node.kernel[0])
        for s in range(node.kernel[1])
    ]
    even = node.maximum or node.counted is None
    constants = output_constants(target) | {
        "bool MAXIMUM": "true" if node.maximum else "false",
        "bool EVEN": "true" if even else "false",
        "real FACTOR": literal(1.0 / len(offsets)),
        "int TAPS": str(len(offsets)),
        f"long OFFSET[{len(offsets)}]": "{" + ", ".join(map(str, offsets)) + "}",
        "long X_ROW": str(window.stride[0] * source.row_stride),
        "long X_COLUMN": str(window.stride[1] * source.vector),
        "long X_CHANNEL": str(source.channel_stride),
    }
    start = origin(plan, step.inputs[0], -window.padding[0], -window.padding[1])
    share = "nullptr" if even else array("real", file.add_reals(_shares(node, target.geometry, source.geometry)))
    call = f"pool_row<S>(arena + {start}, arena + {origin(plan, node.output)}, {share}, row, channel)"
    return per_row(plan, node.output, constants, call, "max_pool" if node.maximum else "average_pool")


def emit_adaptive_pool(plan: Plan, step: Compute, node: AdaptivePool, file: WeightFile) -> Piece:
    """Windows that cover the map."""
    source, target = plan.tensors[step.inputs[0]], plan.tensors[node.output]
    index, share = _adaptive_table(node, target.geometry, source)
    constants = output_constants(target) | {
        "bool MAXIMUM": "true" if node.maximum else "false",
        "int TAPS": str(index.shape[2]),
        "long X_CHANNEL": str(source.channel_stride),
    }
    tables = f"{array('int32_t', file.add(index))}, {array('real', file.add_reals(share))}"
    first, result = plan.offsets[step.inputs[0]], origin(plan, node.output)
    call = f"adaptive_row<S>(arena + {first}, arena + {result},\n                {tables}, row, channel)"
    return per_row(plan, node.output, constants, call, "adaptive_pool")


def emit_mean(plan: Plan, step: Compute, file: WeightFile) -> Piece:
    """The mean of each channel: one task per 16 channels."""
    source, target = plan.tensors[step.inputs[0]], plan.tensors[step.node.output]
    geometry = source.geometry
    inside = array("integer", file.add(inside_masks(source))) if geometry.lane_channels == 1 else "nullptr"
    constants = {
        "bool CHANNEL_LANES": "true" if geometry.lane_channels > 1 else "false",
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
        f"            {inside}, channel);\n"
        + exchange(
            plan,
            step.node.output,
            "0, 1",
            f"task * 16, (task < {source.channels // 16} ? task * 16 + 16 : {source.channels})",
        )
    )
    info = StepInfo(step.node.output, "mean")
    return Piece(info, constants, str(-(-source.channels // 16)), body, f"mean of {step.inputs[0]}")


def _adaptive_table(
    node: AdaptivePool, target: Geometry, source: Placement
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Per row, column, tap and lane a pixel's offset in numbers in a channel, or -1; and 1 / the number of pixels."""
    image, y, x = some_pixels(target)
    rows = _cover(source.geometry.height, node.rows)[y][..., :, None]
    columns = _cover(source.geometry.width, node.columns)[x][..., None, :]
    offset = number_offset(source, image[..., None, None], np.maximum(rows, 0), np.maximum(columns, 0))
    inside = (rows >= 0) & (columns >= 0)
    index = np.where(inside, offset, -1).reshape(*y.shape, -1)
    share = 1.0 / inside.sum((-1, -2))
    return np.moveaxis(index, -1, 2).astype(np.int32), share.astype(np.float32)


def _shares(node: Pool, target: Geometry, source: Geometry) -> NDArray[np.float32]:
    """``(rows, columns, lanes)``: 1 / the number of positions that an average counts."""
    assert node.counted is not None
    top, left, bottom, right = node.counted
    _, y, x = target.grid()
    counts = np.ones(y.shape)
    for axis, (at, before, low, high) in enumerate(
        ((y, node.padding[0], -top, source.height + bottom), (x, node.padding[1], -left, source.width + right))
    ):
        tap = at[..., None] * node.stride[axis] - before + np.arange(node.kernel[axis]) * node.dilation[axis]
        counts = counts * ((tap >= low) & (tap < high)).sum(-1)
    share: NDArray[np.float32] = (1.0 / np.maximum(counts, 1)).astype(np.float32)
    return share


def _cover(length: int, windows: int) -> NDArray[np.int64]:
    """``(windows, longest)``: the positions of each window over a length, -1 behind the last of a shorter one."""
    index = np.arange(windows)
    first, last = index * length // windows, -(-(index + 1) * length // windows)
    positions = first[:, None] + np.arange(int((last - first).max()))
    return np.where(positions < last[:, None], positions, -1)
