"""ONNX operators of attention: softmax, the whole of it (opset 23), the lengths of vectors, guards against NaN."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from onnx import NodeProto
from torch import fx

from compile.onnx_ops.linear import reduced_axes
from compile.onnx_ops.state import Pending, Reader, Translation, attribute, refusal

aten = torch.ops.aten


@final
class IsNan(Pending):
    """Where a value is no number, by which exporters guard a softmax of nothing but minus infinity."""

    def __init__(self, node: NodeProto, source: fx.Node) -> None:
        self.node = node
        self.source = source

    def settle(self, state: Translation) -> fx.Node:
        """Only a Where can read it."""
        del state
        raise refusal(self.node, "compares, which the native backend does not have outside of a guard of a softmax")

    def size(self) -> list[int]:
        """See ``Pending``."""
        return list(self.source.meta["val"].shape)


def _softmax(state: Translation, node: NodeProto) -> None:
    axis, rank = int(attribute(node, "axis", -1)), len(state.size(node.input[0]))
    source = state.value(node.input[0])
    if node.op_type == "LogSoftmax" or axis % rank != rank - 1 or not _scores(source):
        raise refusal(
            node,
            f"is a softmax over no keys of attention, which the native backend does not have. At the end of a "
            f"classifier leave it out, `st3 run` does it: "
            f"onnx.utils.extract_model(MODEL, NEW, [INPUT], [{node.input[0]!r}])",
        )
    state.put(node, aten.softmax.int, source, axis)


_AFTER_PRODUCTS = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.reshape.default)


def _scores(node: fx.Node) -> bool:
    """Whether a value is a product of queries and keys, perhaps with a factor, a mask or another shape."""
    while node.target in _AFTER_PRODUCTS:
        first, second = node.args[:2]
        given = second if isinstance(first, fx.Node) and first.op == "get_attr" else first
        assert isinstance(given, fx.Node)
        node = given
    return node.target in (aten.matmul.default, aten.einsum.default)


def _is_nan(state: Translation, node: NodeProto) -> None:
    state.values[node.output[0]] = IsNan(node, state.value(node.input[0]))


def _where(state: Translation, node: NodeProto) -> None:
    condition, other, value = node.input
    found = state.values.get(condition)
    if not isinstance(found, IsNan) or value in state.constants or state.value(value) is not found.source:
        raise refusal(
            node, "chooses by a condition that is computed at run time, which the native backend does not have"
        )
    if other not in state.constants:
        raise refusal(node, "puts another value in the place of what is no number; the native backend has none there")
    state.values[node.output[0]] = found.source


def _attention(state: Translation, node: NodeProto) -> None:
    """Opset 23's: ``(B, heads, T, D)``, or ``(B, T, heads * D)`` with ``q_num_heads``."""
    extra = [name for name in node.input[4:] if name] + [name for name in node.output[1:] if name in state.users]
    if extra or attribute(node, "softcap", 0.0) or attribute(node, "qk_matmul_output_mode", 0):
        raise refusal(node, "has a cache, a soft cap or results besides attention's, which the native backend has not")
    heads = int(attribute(node, "q_num_heads", 0))
    joined = len(state.size(node.input[0])) == 3
    if int(attribute(node, "kv_num_heads", heads)) != heads:
        raise refusal(node, "has heads of keys that several queries share, which the native backend does not have")
    query, key, value = (_heads(state, name, heads) if joined else state.value(name) for name in node.input[:3])
    mask = state.constant(node, 3, "mask")
    held = None if mask is None else state.held(mask, f"{node.output[0]}.mask")
    causal, scale = bool(attribute(node, "is_causal", 0)), attribute(node, "scale", None)
    operator = aten.scaled_dot_product_attention.default
    result = state.emit(node.output[0], operator, query, key, value, held, 0.0, causal, scale=scale)
    if joined:
        result = state.emit(node.output[0], aten.permute.default, result, [0, 2, 1, 3])
        size = [int(length) for length in result.meta["val"].shape]
        result = state.emit(node.output[0], aten.reshape.default, result, [*size[:2], size[2] * size[3]])
    state.values[node.output[0]] = result


def _heads(state: Translation, name: str, heads: int) -> fx.Node:
    batch, tokens, channels = state.size(name)
    apart = state.emit(name, aten.reshape.default, state.value(name), [batch, tokens, heads, channels // heads])
    return state.emit(name, aten.permute.default, apart, [0, 2, 1, 3])


def _length(state: Translation, node: NodeProto) -> None:
    axes = reduced_axes(state, node)
    state.put(
        node, aten.linalg_vector_norm.default, state.value(node.input[0]), 2, axes, bool(attribute(node, "keepdims", 1))
    )


def _lp_normalise(state: Translation, node: NodeProto) -> None:
    value, order = state.value(node.input[0]), int(attribute(node, "p", 2))
    lengths = state.emit(
        node.output[0], aten.linalg_vector_norm.default, value, order, [attribute(node, "axis", -1)], True
    )
    state.put(node, aten.div.Tensor, value, lengths)


def are_lengths(node: fx.Node) -> bool:
    """Whether a value is the lengths of vectors, perhaps bounded and repeated."""
    while node.target in (aten.clamp.default, aten.expand.default, aten.reshape.default, aten.permute.default):
        node = node.all_input_nodes[0]
    return node.target is aten.linalg_vector_norm.default


def at_least(state: Translation, node: NodeProto, lengths: fx.Node) -> None:
    """Lengths that are not below a small number, so that they can be divided by."""
    low = next((name for name in node.input if name in state.constants), "")
    high = state.constant(node, 2, "upper bound")
    if not low or state.constants[low].size != 1 or (high is not None and node.op_type == "Clip"):
        raise refusal(node, "bounds the lengths of vectors by something else than one least number")
    state.put(node, aten.clamp.default, lengths, float(np.asarray(state.constants[low]).reshape(-1)[0]))


READERS: dict[str, Reader] = {
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "IsNaN": _is_nan,
    "Where": _where,
    "Attention": _attention,
    "ReduceL2": _length,
    "LpNormalization": _lp_normalise,
}
