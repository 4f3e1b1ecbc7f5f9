"""Emits what networks of tokens add: pixels put in other places, and attention between the pixels of a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.graph import Attention, Move
from compile.native.geometry import Geometry, Placement, mask_type, number_offset, some_pixels
from compile.native.isa import Isa
from compile.native.pieces import Piece, array, exchange, literal, origin, output_constants, per_row, row_columns
from compile.native.plan import Plan
from compile.native.steps import Compute
from compile.native.weights import WeightFile
from runtime.steps import StepInfo

_BUFFER_BYTES = 64 * 1024  # of scores, which a task reads twice
_TASKS = 16
_MOST_QUERIES = {16: 3, 32: 4}  # vectors, by registers


def emit_move(plan: Plan, step: Compute, node: Move, file: WeightFile) -> Piece:
    """One table of pixels, for each lane of each position, and one of what is added."""
    source, target = plan.tensors[step.inputs[0]], plan.tensors[node.output]
    constants = output_constants(target) | {
        "int ROWS": str(target.geometry.rows),
        "bool SHIFT": "false" if node.shift is None else "true",
        "long X_CHANNEL": str(source.channel_stride),
    }
    shift = "nullptr"
    if node.shift is not None:
        _, y, x = some_pixels(target.geometry)
        shift = array("real", file.add_reals(np.ascontiguousarray(node.shift[:, y, x], np.float32)))
    index = array("int32_t", file.add(_move_table(node, target.geometry, source)))
    start = plan.offsets[step.inputs[0]] + node.first * source.channel_stride
    places = f"arena + {start}, arena + {origin(plan, node.output)}"
    call = f"move_row<S>({places},\n                {index}, {shift}, row, channel)"
    return per_row(plan, node.output, constants, call, "move")


def emit_attention(plan: Plan, step: Compute, node: Attention, isa: Isa, file: WeightFile) -> Piece:
    """One task per row, head and, where these are few, run of queries."""
    query, key, value, target = (plan.tensors[name] for name in (*step.inputs, node.output))
    geometry = target.geometry
    spread, (order, *tables) = _spread(geometry), _tokens(geometry)
    kinds = ("int32_t", "int32_t", "integer")
    keys = ", ".join(array(kind, file.add(table)) for kind, table in zip(kinds, tables, strict=True))
    heads, queries = len(node.scale), _queries(geometry, isa)
    constants = {
        "int COLUMNS": str(geometry.columns),
        "int TOKENS": str(geometry.width),
        "int QUERIES": str(queries),
        "int REGISTERS": str(isa.registers),
        "int SIZE": str(node.sizes[0]),
        "int VALUE_SIZE": str(node.sizes[1]),
        "Spread SPREAD": spread,
        "bool COSINE": "false" if node.epsilon is None else "true",
        "float EPSILON": literal(node.epsilon or 0.0),
        "bool BIAS": "false" if node.bias is None else "true",
        "long Q_CHANNEL": str(query.channel_stride),
        "long K_CHANNEL": str(key.channel_stride),
        "long V_CHANNEL": str(value.channel_stride),
        "long Y_CHANNEL": str(target.channel_stride),
    }
    rows, whole = geometry.rows, exchange(plan, node.output, "row, row + 1", "low, high")
    runs, cut = row_columns(geometry.columns, None if whole or rows * heads >= _TASKS else queries)
    places = ", ".join(
        f"arena + {origin(plan, name) + first * placement.channel_stride} + row * {placement.row_stride}"
        f" + head * {size * placement.channel_stride}"
        for name, first, size, placement in (
            (step.inputs[0], node.firsts[0], node.sizes[0], query),
            (step.inputs[1], node.firsts[1], node.sizes[0], key),
            (step.inputs[2], node.firsts[2], node.sizes[1], value),
            (node.output, 0, node.sizes[1], target),
        )
    )
    body = (
        f"        const int row = task / {heads * runs}, head = task / {runs} % {heads};\n{cut}"
        f"        attend_columns<S>({{{places},\n"
        f"            {array('real', file.add_reals(node.scale))}[head], {_bias(node, geometry, order, file)}}},\n"
        f"            {{{keys}}}, first, last);\n"
    )
    if whole:
        body += f"        const int low = head * {node.sizes[1]}, high = low + {node.sizes[1]};\n{whole}"
    macs = geometry.height * geometry.width**2 * heads * sum(node.sizes) * plan.images * plan.groups
    comment = f"attention {node.output}: {heads} heads over {geometry.width} tokens"
    return Piece(StepInfo(node.output, "attention", macs=macs), constants, str(rows * heads * runs), body, comment)


def _move_table(node: Move, target: Geometry, source: Placement) -> NDArray[np.int32]:
    """Per row, column and lane the offset in numbers of a pixel in a channel, or -1."""
    image, y, x = some_pixels(target)
    pixel = node.positions[y * target.width + x]
    offset = number_offset(source, image, pixel // source.geometry.width, pixel % source.geometry.width)
    return np.where(pixel < 0, -1, offset).astype(np.int32)


def _spread(geometry: Geometry) -> str:
    if geometry.images == 1 and geometry.lane_rows == 1:
        return "SPLAT"
    return "ALIGNED" if geometry.lane_columns == 1 else "MIXED"


def _tokens(
    geometry: Geometry,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.signedinteger[Any]]]:
    """The tokens as they lie in memory; the place in bytes and the group of each; the lanes of each group."""
    token = np.arange(geometry.width)
    column, group = token % geometry.columns, token // geometry.columns
    order = np.lexsort((group, column))
    lane = geometry.item * group if _spread(geometry) == "SPLAT" else 0 * group
    place = geometry.item * geometry.lanes * column + lane
    lanes = np.arange(geometry.lanes)
    window = lanes - lanes % geometry.lane_columns
    pattern = np.minimum(window + np.arange(geometry.lane_columns)[:, None], geometry.lanes - 1)
    lane_tables = pattern.astype(mask_type(geometry.item))
    return order, place[order].astype(np.int32), group[order].astype(np.int32), lane_tables


def _queries(geometry: Geometry, isa: Isa) -> int:
    """Vectors of queries at a time: as even runs as registers and the buffer of scores allow."""
    most = _MOST_QUERIES.get(isa.registers, 3)
    most = max(1, min(most, _BUFFER_BYTES // (geometry.item * geometry.lanes * geometry.width)))
    return -(-geometry.columns // -(-geometry.columns // most))


def _bias(node: Attention, geometry: Geometry, order: NDArray[np.int64], file: WeightFile) -> str:
    """C++ of a row and head's ``[key][column]`` vectors; rows that have the same are one in the file."""
    if node.bias is None:
        return "nullptr"
    _, y, x = some_pixels(geometry)
    windows, heads, _, keys = node.bias.shape
    found: dict[bytes, int] = {}
    tables: list[NDArray[np.float32]] = []
    kinds: list[int] = []
    for row in range(geometry.rows):
        window = np.minimum(y[row], windows - 1)
        # (columns, lanes, heads, keys) to [head][key][column][lane]
        lines = node.bias[window, :, x[row]].transpose(2, 3, 0, 1)[:, order]
        key = lines.tobytes()
        if key not in found:
            found[key] = len(tables)
            tables.append(np.ascontiguousarray(lines, np.float32))
        kinds.append(found[key])
    bias, kind = file.add_reals(np.stack(tables)), file.add(np.array(kinds, np.int32))
    per_head = keys * geometry.columns * geometry.lanes * geometry.item
    place = f"array<char>(weights, {bias}) + {array('int32_t', kind)}[row] * {heads * per_head}L"
    return place if heads == 1 else f"{place} + head * {per_head}L"
