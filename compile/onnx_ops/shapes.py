"""ONNX operators that compute nothing: other shapes and orders of the same numbers, and shapes as numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from onnx import NodeProto, TensorProto

from compile.onnx_ops.state import Reader, Translation, attribute, refusal
from runtime.errors import UserError

aten = torch.ops.aten


def _same(state: Translation, node: NodeProto) -> None:
    """Identity, and a dropout at inference."""
    if node.op_type == "Dropout":
        training = state.constant(node, 2, "training mode")
        if training is not None and np.any(training):
            raise refusal(node, "is an active dropout; export the model in eval mode")
        if len(node.output) > 1 and node.output[1] in state.users:
            raise refusal(node, "returns its mask, which the native backend does not have")
    _pass(state, node)


def _pass(state: Translation, node: NodeProto) -> None:
    """The value itself, pending if it is."""
    source = node.input[0]
    state.values[node.output[0]] = state.values.get(source) or state.value(source)


def _cast(state: Translation, node: NodeProto) -> None:
    kind = int(attribute(node, "to", 0))
    if node.op_type == "CastLike":
        like = state.constants.get(node.input[1])
        kind = TensorProto.FLOAT if like is None or like.dtype == np.float32 else TensorProto.UNDEFINED
    if kind != TensorProto.FLOAT:
        raise refusal(node, f"makes {TensorProto.DataType.Name(kind)} of a map; st3 computes in float32")
    _pass(state, node)


def _shape(state: Translation, node: NodeProto) -> None:
    sizes = np.array(state.size(node.input[0]), np.int64)
    start, end = attribute(node, "start", 0), attribute(node, "end", len(sizes))
    state.constants[node.output[0]] = sizes[start:end]


def _count(state: Translation, node: NodeProto) -> None:
    state.constants[node.output[0]] = np.array(math.prod(state.size(node.input[0])), np.int64)


def _flatten(state: Translation, node: NodeProto) -> None:
    size = state.size(node.input[0])
    axis = int(attribute(node, "axis", 1))
    axis = axis + len(size) if axis < 0 else axis
    _put_shape(state, node, [math.prod(size[:axis]), math.prod(size[axis:])])


def _reshape(state: Translation, node: NodeProto) -> None:
    wanted = state.constant(node, 1, "shape")
    assert wanted is not None
    before, keep = state.size(node.input[0]), not attribute(node, "allowzero", 0)
    sizes = [
        before[i] if keep and size == 0 and i < len(before) else int(size) for i, size in enumerate(wanted.tolist())
    ]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and known > 0:
        sizes[sizes.index(-1)] = math.prod(before) // known
    if math.prod(sizes) != math.prod(before) or min(sizes, default=1) < 1:
        raise _mixed(node, before, wanted.tolist())
    _put_shape(state, node, sizes)


def _put_shape(state: Translation, node: NodeProto, sizes: list[int]) -> None:
    state.put(node, aten.reshape.default, state.value(node.input[0]), sizes)


def _mixed(node: NodeProto, before: list[int], shape: list[int]) -> UserError:
    return refusal(
        node,
        f"reshapes {before} to {shape}, which has another number of elements: "
        f"export the network with a dynamic batch, or with the batch size that you compile for",
    )


def _squeeze(state: Translation, node: NodeProto) -> None:
    size, given = state.size(node.input[0]), state.constant(node, 1, "axes")
    axes = [i for i, length in enumerate(size) if length == 1] if given is None else [int(axis) for axis in given]
    gone = {axis % len(size) for axis in axes}
    if any(size[axis] != 1 for axis in gone):
        raise refusal(node, f"removes the dimensions {sorted(gone)} of {size}, which are not all of length 1")
    _put_shape(state, node, [length for i, length in enumerate(size) if i not in gone])


def _unsqueeze(state: Translation, node: NodeProto) -> None:
    size, given = state.size(node.input[0]), state.constant(node, 1, "axes")
    assert given is not None
    for axis in sorted(int(axis) % (len(size) + len(given)) for axis in given):
        size.insert(axis, 1)
    _put_shape(state, node, size)


def _transpose(state: Translation, node: NodeProto) -> None:
    order = attribute(node, "perm", range(len(state.size(node.input[0])) - 1, -1, -1))
    state.put(node, aten.permute.default, state.value(node.input[0]), [int(axis) for axis in order])


READERS: dict[str, Reader] = {
    "Identity": _same,
    "Dropout": _same,
    "Cast": _cast,
    "CastLike": _cast,
    "Shape": _shape,
    "Size": _count,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
}
