"""Normalisations in ONNX: batch and layer normalisation, and the nodes that older exporters write for the latter."""

from __future__ import annotations

from typing import Any, final

import msgspec
import torch
from numpy.typing import NDArray
from onnx import NodeProto

from compile.onnx_ops.state import Reader, Translation, attribute, refusal

aten = torch.ops.aten


def _batch_norm(state: Translation, node: NodeProto) -> None:
    parameters = [state.weight(node, i, "parameter") for i in (1, 2, 3, 4)]
    if attribute(node, "training_mode", 0):
        raise refusal(node, "is a batch normalisation in training mode; export the model in eval mode")
    layer = state.new_layer(node.output[0])
    held = [None if array is None else state.held(array, layer) for array in parameters]
    epsilon = float(attribute(node, "epsilon", 1e-5))
    state.put(node, aten.batch_norm.default, state.value(node.input[0]), *held, False, 0.0, epsilon, False)


def _layer_norm(state: Translation, node: NodeProto) -> None:
    value, axis = state.value(node.input[0]), int(attribute(node, "axis", -1))
    normalised = state.size(node.input[0])[axis:]
    parameters = [state.weight(node, 1, "scale"), state.weight(node, 2, "bias")]
    held = [None if array is None else state.held(array.reshape(normalised), node.output[0]) for array in parameters]
    epsilon = float(attribute(node, "epsilon", 1e-5))
    state.put(node, aten.layer_norm.default, value, normalised, *held, epsilon)


class Normalisation(msgspec.Struct, frozen=True):
    """A layer normalisation that an exporter wrote as ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div."""

    input: str
    axis: int
    epsilon: float


def read_normalisation(state: Translation, node: NodeProto, found: Normalisation) -> None:
    """Put a layer normalisation in place of the ``Div`` that ends it."""
    value, size = state.value(found.input), state.size(found.input)
    axis, last = found.axis % len(size), len(size) - 1
    output = node.output[0]
    if axis != last:
        order = [*(number for number in range(len(size)) if number != axis), axis]
        value = state.emit(output, aten.permute.default, value, order)
    value = state.emit(output, aten.layer_norm.default, value, [size[axis]], None, None, found.epsilon)
    if axis != last:
        value = state.emit(output, aten.permute.default, value, [*range(axis), last, *range(axis, last)])
    state.values[output] = value


def find_normalisation(
    node: NodeProto, made: dict[str, NodeProto], constants: dict[str, NDArray[Any]], opset: int
) -> Normalisation | None:
    """The layer normalisation that ends in this ``Div``; ``made`` is which node computes a value."""
    search = _Search(made, constants, opset)
    numerator = search.centred(node.input[0]) if node.op_type == "Div" else None
    root = search.maker(node.input[1], "Sqrt") if numerator else None
    total = search.maker(root.input[0], "Add") if root else None
    if numerator is None or total is None:
        return None
    for variance, epsilon in ((total.input[0], total.input[1]), (total.input[1], total.input[0])):
        mean, added = search.maker(variance, "ReduceMean"), search.number(epsilon)
        if mean is None or added is None or search.squared(mean.input[0]) != numerator:
            continue
        if search.axis_of(mean) == numerator[1]:
            return Normalisation(numerator[0], numerator[1], added)
    return None


@final
class _Search:
    """Looks backwards from a value for the parts of a layer normalisation."""

    def __init__(self, made: dict[str, NodeProto], constants: dict[str, NDArray[Any]], opset: int) -> None:
        self.made = made
        self.constants = constants
        self.opset = opset

    def maker(self, name: str, op: str) -> NodeProto | None:
        """The node that computes a value, if it is of that operator."""
        found = self.made.get(name)
        return found if found is not None and found.op_type == op else None

    def number(self, name: str) -> float | None:
        """The value of a constant that is one number."""
        found = self.constants.get(name)
        return float(found.reshape(-1)[0]) if found is not None and found.size == 1 else None

    def axis_of(self, mean: NodeProto) -> int | None:
        """The one axis of a mean that keeps its dimensions."""
        if self.opset >= 18:
            axes = self.constants.get(mean.input[1]) if len(mean.input) > 1 else None
        else:
            axes = attribute(mean, "axes", None)
        return int(axes[0]) if axes is not None and len(axes) == 1 and attribute(mean, "keepdims", 1) else None

    def centred(self, name: str) -> tuple[str, int] | None:
        """``x - mean(x)``: x and the axis."""
        difference = self.maker(name, "Sub")
        mean = self.maker(difference.input[1], "ReduceMean") if difference else None
        if difference is None or mean is None or mean.input[0] != difference.input[0]:
            return None
        axis = self.axis_of(mean)
        return None if axis is None else (mean.input[0], axis)

    def squared(self, name: str) -> tuple[str, int] | None:
        """``(x - mean(x)) ** 2``: x and the axis."""
        power, product = self.maker(name, "Pow"), self.maker(name, "Mul")
        if power is not None and self.number(power.input[1]) == 2:
            return self.centred(power.input[0])
        return self.centred(product.input[0]) if product and product.input[0] == product.input[1] else None


READERS: dict[str, Reader] = {
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
}
