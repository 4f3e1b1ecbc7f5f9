"""What a foreign ONNX file says of itself: its input, its layers and their multiply-accumulates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.naming import FLOAT
from runtime.artifact import LayerEntry, TensorSpec
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, ValueInfoProto

# what an operator is, and which of its inputs is the weight
_LAYERS = {"Conv": ("conv2d", 1), "Gemm": ("linear", 1), "MatMul": ("linear", 1)}
# those that compute in integers themselves; the weight's zero point is the second input behind the weight
_INTEGER = {
    "QLinearConv": ("conv2d", 3),
    "QLinearMatMul": ("linear", 3),
    "ConvInteger": ("conv2d", 1),
    "MatMulInteger": ("linear", 1),
    # ONNX Runtime's own
    "QGemm": ("linear", 3),
    "DynamicQuantizeMatMul": ("linear", 1),
}


def read_model(path: Path, weights: bool = False) -> ModelProto:
    """Read the file, with the weights that lie beside it if asked; raises ``UserError`` where it is none."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path, load_external_data=weights)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise UserError(f"{path} cannot be read as an ONNX file: {error}") from error


def spec_of(model: ModelProto, path: Path, output: bool = False) -> TensorSpec:
    """The one input ``(B, C, H, W)`` or the first output ``(B, N)``; a batch that is not fixed is 0.

    Raises:
        UserError: there are several inputs, or it is no float32 of that rank whose other lengths are fixed.
    """
    from onnx import TensorProto

    constants = {tensor.name for tensor in model.graph.initializer}
    found = list(model.graph.output) if output else [i for i in model.graph.input if i.name not in constants]
    what, rank = ("output", 2) if output else ("input", 4)
    shape = _shape(found[0]) if found else ()
    if (not output and len(found) != 1) or len(shape) != rank or not all(shape[1:]):
        described = ", ".join(f"{value.name} {_shape(value)}" for value in found) or "none"
        raise UserError(
            f"{path.name}: to be a yardstick a network has one {what} of {rank} lengths, all but the first fixed; its "
            f"{what}s are {described} (0: not fixed)"
        )
    if found[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UserError(f"{path.name}: the {what} {found[0].name!r} is not float32")
    return TensorSpec(found[0].name, shape, "float32")


def fixed_batch(model: ModelProto, batch_size: int) -> ModelProto:
    """The model for one batch size: engines plan better for shapes that they know."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in (*(i for i in fixed.graph.input if i.name not in constants), *fixed.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = batch_size
    # what was inferred for a batch that was not known
    del fixed.graph.value_info[:]
    return fixed


def layers_of(model: ModelProto, batch_size: int) -> tuple[LayerEntry, ...]:
    """Convolutions and matrix products with a constant weight; those whose shape cannot be inferred are left out.

    The weight of a quantised file stands behind a DequantizeLinear, and is zero where it is its zero point.
    """
    graph = _graph(model)
    found = (_layer(node, graph, batch_size) for node in model.graph.node)
    return tuple(layer for layer in found if layer is not None)


def dtype_of(model: ModelProto) -> str:
    """``float32``, or what a layer's weight and input are both quantised to: ``int8`` if to any 8 bits.

    A file whose weights alone are small is computed in float32.
    """
    graph = _graph(model)
    return next((graph.dtype_of(node) for node in model.graph.node if graph.dtype_of(node) != FLOAT), FLOAT)


class _Weight(msgspec.Struct, frozen=True):
    """A constant, and which of its values are no zeros."""

    values: NDArray[np.generic]
    is_nonzero: NDArray[np.bool_]


class _Graph(msgspec.Struct, frozen=True):
    """By the name of a value: the node that gives it, its shape, and the constants."""

    makers: dict[str, NodeProto]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, NDArray[np.generic]]

    def weight_of(self, node: NodeProto) -> _Weight | None:
        """The constant weight of a layer, ``None`` of any other node."""
        if node.op_type in _INTEGER:
            op, index = _INTEGER[node.op_type]
            return self._weight(node.input[index], node.input[index + 2 : index + 3], 0 if op == "conv2d" else -1)
        if node.op_type not in _LAYERS:
            return None
        name = node.input[_LAYERS[node.op_type][1]]
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return self._weight(name)
        axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1)
        source = self.makers.get(maker.input[0])
        # a file that was trained for it quantises its float32 weights itself
        if source is not None and source.op_type == "QuantizeLinear":
            return self._weight(source.input[0])
        return self._weight(maker.input[0], maker.input[2:3], axis)

    def dtype_of(self, node: NodeProto) -> str:
        """What a layer's weight and input are quantised to; ``float32`` of any other node."""
        if node.op_type in _INTEGER:
            return "int8"
        if node.op_type not in _LAYERS:
            return FLOAT
        quantised = [self._quantised(name) for name in node.input[:2]]
        return quantised[1] if all(quantised) else FLOAT

    def _quantised(self, name: str) -> str:
        """In what a value lies before it is dequantised; empty where it is not."""
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return ""
        zero = self.constants.get(maker.input[2]) if len(maker.input) > 2 else None
        values = self.constants.get(maker.input[0], zero)
        kind = "uint8" if values is None else str(values.dtype)  # without a zero point the standard says uint8
        return "int8" if kind == "uint8" else kind

    def _weight(self, name: str, zero_name: Sequence[str] = (), axis: int = 0) -> _Weight | None:
        values = self.constants.get(name)
        if values is None:
            return None
        zero = self.constants.get(zero_name[0]) if zero_name else None
        if zero is None:
            return _Weight(values, values != 0)
        if zero.ndim == 1 and zero.size > 1:  # one for each channel
            zero = zero.reshape([-1 if dim == axis % values.ndim else 1 for dim in range(values.ndim)])
        return _Weight(values, values != zero)


def _graph(model: ModelProto) -> _Graph:
    import onnx
    from onnx import numpy_helper

    inferred = onnx.shape_inference.infer_shapes(model).graph
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if not tensor.external_data
    }
    shapes = {value.name: _shape(value) for value in (*inferred.value_info, *inferred.output)}
    return _Graph({output: node for node in model.graph.node for output in node.output}, shapes, constants)


def _layer(node: NodeProto, graph: _Graph, batch_size: int) -> LayerEntry | None:
    weight, shape = graph.weight_of(node), graph.shapes.get(node.output[0], ())
    if weight is None or not shape or not all(shape):
        return None
    op = (_LAYERS | _INTEGER)[node.op_type][0]
    # each output is a sum over the weights of its channel
    outputs, size = shape[1] if op == "conv2d" else shape[-1], weight.values.size
    macs = math.prod(shape) * size // outputs // batch_size
    nonzeros = int(np.count_nonzero(weight.is_nonzero))
    dtype = graph.dtype_of(node)
    return LayerEntry(
        name=node.name or node.output[0],
        op=op,
        weight_shape=weight.values.shape,
        pattern="dense",
        nonzeros=nonzeros,
        density=nonzeros / max(size, 1),
        macs_dense=macs,
        macs_nonzero=macs * nonzeros // max(size, 1),
        format="dense",
        reason="the engine computes every zero" + ("" if dtype == FLOAT else f", in {dtype}"),
    )


def _shape(value: ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
