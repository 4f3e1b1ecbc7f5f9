"""Emits changes of a map's size: weighted sums of pixels by a table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compile.graph import Resize
from compile.native.geometry import Geometry, Placement, number_offset, some_pixels
from compile.native.pieces import Piece, array, origin, output_constants, per_row
from compile.native.plan import Plan
from compile.native.steps import Compute
from compile.native.weights import WeightFile


def emit_resize(plan: Plan, step: Compute, node: Resize, file: WeightFile) -> Piece:
    """One table of pixels and one of their weights, for each lane of each position."""
    source, target = plan.tensors[step.inputs[0]], plan.tensors[node.output]
    index, weight = _tables(node, target.geometry, source)
    constants = output_constants(target) | {
        "int TAPS": str(index.shape[2]),
        "long X_CHANNEL": str(source.channel_stride),
    }
    tables = f"{array('int32_t', file.add(index))}, {array('real', file.add_reals(weight))}"
    first, result = plan.offsets[step.inputs[0]], origin(plan, node.output)
    call = f"resize_row<S>(arena + {first}, arena + {result},\n                {tables}, row, channel)"
    return per_row(plan, node.output, constants, call, "resize")


def _tables(node: Resize, target: Geometry, source: Placement) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Per row, column, tap and lane the offset in numbers of a pixel in a channel, and its weight."""
    image, y, x = some_pixels(target)
    rows, row_weights = _taps(node.rows)
    columns, column_weights = _taps(node.columns)
    offset = number_offset(source, image[..., None, None], rows[y][..., :, None], columns[x][..., None, :])
    weight = row_weights[y][..., :, None] * column_weights[x][..., None, :]
    flat = (*y.shape, -1)
    index, share = np.moveaxis(offset.reshape(flat), -1, 2), np.moveaxis(weight.reshape(flat), -1, 2)
    return np.ascontiguousarray(index, np.int32), np.ascontiguousarray(share, np.float32)


def _taps(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each row of a matrix the places of its non-zeros and their values, filled up with zeros: ``(rows, most)``."""
    most = max(1, int(np.count_nonzero(matrix, axis=1).max()))
    places = np.argsort(matrix == 0, axis=1, kind="stable")[:, :most]
    return places, np.take_along_axis(matrix, places, axis=1)
