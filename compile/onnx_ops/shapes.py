"""ONNX operators that compute nothing: other shapes and orders of the same numbers, and shapes as numbers."""

from __future__ import annotations

from typing import final

import numpy as np
from onnx import NodeProto, TensorProto

from compile.onnx_ops.state import Import, Pending, Reader, View, attribute, refusal
from runtime.errors import UserError


@final
class Flat(Pending):
    """All pictures of a batch in one row, from which torch's exporter gathers them again (its ``as_strided``)."""

    def __init__(self, node: NodeProto, view: View) -> None:
        self.node = node
        self.view = view

    def settle(self, state: Import) -> View:
        """Only a Gather can read it."""
        del state
        raise _mixed(self.node, [-1])


def _same(state: Import, node: NodeProto) -> None:
    """Identity, and a dropout at inference."""
    source = node.input[0]
    if node.op_type == "Dropout":
        training = state.constant(node, 2, "training mode")
        if training is not None and np.any(training):
            raise refusal(node, "is an active dropout; export the model in eval mode")
        if len(node.output) > 1 and node.output[1] in state.users:
            raise refusal(node, "returns its mask, which the native backend does not have")
    state.values[node.output[0]] = state.values.get(source) or state.view(source)


def _cast(state: Import, node: NodeProto) -> None:
    kind = int(attribute(node, "to", 0))
    if kind != TensorProto.FLOAT:
        raise refusal(node, f"makes {TensorProto.DataType.Name(kind)} of a map; st3 computes in float32")
    state.values[node.output[0]] = state.values.get(node.input[0]) or state.view(node.input[0])


def _shape(state: Import, node: NodeProto) -> None:
    sizes = np.array([state.batch_size, *state.view(node.input[0]).index.shape], np.int64)
    start, end = attribute(node, "start", 0), attribute(node, "end", len(sizes))
    state.constants[node.output[0]] = sizes[start:end]


def _flatten(state: Import, node: NodeProto) -> None:
    view = state.view(node.input[0])
    axis = int(attribute(node, "axis", 1))
    if axis % (view.index.ndim + 1) != 1:
        raise refusal(node, f"flattens at axis {axis}; st3 keeps the pictures of a batch apart (axis 1)")
    state.values[node.output[0]] = View(view.value, view.index.reshape(-1))


def _reshape(state: Import, node: NodeProto) -> None:
    """A shape whose first number is the batch: the target's, the one that the file was exported for, or -1."""
    wanted = state.constant(node, 1, "shape")
    assert wanted is not None
    view = state.view(node.input[0])
    before = (state.batch_size, *view.index.shape)
    keep = not attribute(node, "allowzero", 0)
    sizes = [
        before[i] if keep and size == 0 and i < len(before) else int(size) for i, size in enumerate(wanted.tolist())
    ]
    first, rest = (sizes[0], sizes[1:]) if sizes else (0, [])
    if not rest and first in (-1, state.batch_size * view.index.size):
        state.values[node.output[0]] = Flat(node, view)
        return
    if first not in (-1, state.batch_size, state.file_batch) or (first == -1 and -1 in rest):
        raise _mixed(node, wanted.tolist())
    try:
        index = view.index.reshape(rest)
    except ValueError:
        raise _mixed(node, wanted.tolist()) from None
    state.values[node.output[0]] = View(view.value, index)


def _gather(state: Import, node: NodeProto) -> None:
    """The pictures that a reshape has put into one row, taken apart again."""
    wanted, found = state.constant(node, 1, "indices"), state.values.get(node.input[0])
    assert wanted is not None
    if not isinstance(found, Flat) or attribute(node, "axis", 0) != 0:
        raise refusal(node, "takes elements out of a map, which the native backend does not have")
    starts = np.arange(state.batch_size).reshape(-1, *(1 for _ in wanted.shape[1:])) * found.view.index.size
    if len(wanted) != state.batch_size or not (wanted - starts == wanted[:1]).all():
        raise _mixed(found.node, [-1])
    state.values[node.output[0]] = View(found.view.value, found.view.index.reshape(-1)[wanted[0]])


def _mixed(node: NodeProto, shape: list[int]) -> UserError:
    return refusal(
        node,
        f"reshapes to {shape}, which moves the batch or parts of it; st3 keeps the pictures of a batch apart: "
        f"export the network with a dynamic batch, or with the batch size that you compile for",
    )


def _squeeze(state: Import, node: NodeProto) -> None:
    view = state.view(node.input[0])
    given, rank = state.constant(node, 1, "axes"), view.index.ndim + 1
    sizes = (state.batch_size, *view.index.shape)
    axes = [int(axis) % rank for axis in given] if given is not None else [i for i in range(rank) if sizes[i] == 1]
    if 0 in axes:
        raise refusal(node, "removes the axis of the batch, which st3 needs; name the axes to squeeze")
    state.values[node.output[0]] = View(view.value, np.squeeze(view.index, tuple(axis - 1 for axis in axes)))


def _unsqueeze(state: Import, node: NodeProto) -> None:
    view, given = state.view(node.input[0]), state.constant(node, 1, "axes")
    assert given is not None
    axes = [int(axis) % (view.index.ndim + 1 + len(given)) for axis in given]
    if 0 in axes:
        raise refusal(node, "puts an axis before the batch; st3 needs the batch first")
    state.values[node.output[0]] = View(view.value, np.expand_dims(view.index, tuple(axis - 1 for axis in axes)))


def _transpose(state: Import, node: NodeProto) -> None:
    view = state.view(node.input[0])
    order = attribute(node, "perm", range(view.index.ndim, -1, -1))
    if order[0] != 0:
        raise refusal(node, f"moves the axis of the batch ({list(order)}); st3 needs the batch first")
    state.values[node.output[0]] = View(view.value, view.index.transpose([axis - 1 for axis in order[1:]]))


READERS: dict[str, Reader] = {
    "Identity": _same,
    "Dropout": _same,
    "Cast": _cast,
    "Shape": _shape,
    "Flatten": _flatten,
    "Gather": _gather,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
}
