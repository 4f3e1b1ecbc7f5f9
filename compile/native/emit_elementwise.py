"""Emits the steps that work position by position: sums, products, activations, copies, layer norm."""

from __future__ import annotations

from compile.graph import Elementwise, LayerNorm
from compile.native.pieces import Piece, array, exchange, literal, origin, output_constants, per_row, row_columns
from compile.native.plan import Plan
from compile.native.steps import Compute
from compile.native.weights import WeightFile
from runtime.steps import StepInfo

_ROWS = 16  # from which on a layer norm is cut by rows alone
_RUN = 4  # vectors of a row that are normalised together


def emit_elementwise(plan: Plan, step: Compute, node: Elementwise) -> Piece:
    """A sum, a product, or an activation on its own."""
    left, target = plan.tensors[step.inputs[0]], plan.tensors[node.output]
    right = plan.tensors[step.inputs[1]] if len(step.inputs) > 1 else None
    per_channel = right is not None and right.geometry != target.geometry
    constants = output_constants(target) | {
        "Operation OPERATION": "ALONE" if right is None else node.op.upper(),
        "bool PER_CHANNEL": "true" if per_channel else "false",
        "int LANES_PER_IMAGE": str(target.geometry.lane_rows * target.geometry.lane_columns),
        "long A_ROW": str(left.row_stride),
        "long A_CHANNEL": str(left.channel_stride),
        "long B_ROW": str(0 if right is None or per_channel else right.row_stride),
        "long B_CHANNEL": str(0 if right is None else right.channel_stride),
        "Activation ACTIVATION": node.activation.upper(),
    }
    second = "nullptr" if right is None else f"arena + {origin(plan, step.inputs[1])}"
    first, result = origin(plan, step.inputs[0]), origin(plan, node.output)
    call = f"combine_row<S>(arena + {first}, {second}, arena + {result}, row, channel)"
    return per_row(plan, node.output, constants, call, "elementwise")


def emit_layer_norm(plan: Plan, step: Compute, node: LayerNorm, file: WeightFile) -> Piece:
    """A layer norm over the channels: one task per row, or, where these are few, per vectors of a row."""
    source, target = plan.tensors[step.inputs[0]], plan.tensors[node.output]
    rows, columns = target.geometry.rows, target.geometry.columns
    constants = output_constants(target) | {
        "int CHANNELS": str(target.channels),
        "float EPSILON": literal(node.epsilon),
        "long X_ROW": str(source.row_stride),
        "long X_CHANNEL": str(source.channel_stride),
    }
    whole = exchange(plan, node.output, "row, row + 1", f"0, {target.channels}")
    runs, cut = row_columns(columns, None if whole or rows >= _ROWS else _RUN)
    body = (
        f"        const int row = task / {runs};\n{cut}"
        f"        normalise_row<S>(arena + {origin(plan, step.inputs[0])}, arena + {origin(plan, node.output)},\n"
        f"            {array('float', file.add(node.weight))}, {array('float', file.add(node.bias))},\n"
        f"            row, first, last);\n"
        f"{whole}"
    )
    return Piece(StepInfo(node.output, "layer_norm"), constants, str(rows * runs), body, f"layer norm {node.output}")
