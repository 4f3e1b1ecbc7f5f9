"""What a foreign ONNX file says of itself: its input, its layers and their multiply-accumulates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from runtime.artifact import LayerEntry, TensorSpec
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, ValueInfoProto

_LAYERS = {"Conv": "conv2d", "Gemm": "linear", "MatMul": "linear"}


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
    """Convolutions and matrix products with a constant weight; those whose shape cannot be inferred are left out."""
    import onnx
    from onnx import numpy_helper

    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {value.name: _shape(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    weights = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if not tensor.external_data
    }
    found = (_layer(node, shapes, weights, batch_size) for node in inferred.graph.node if node.op_type in _LAYERS)
    return tuple(layer for layer in found if layer is not None)


def _layer(
    node: NodeProto, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, NDArray[np.generic]], batch_size: int
) -> LayerEntry | None:
    weight, shape = weights.get(node.input[1]), shapes.get(node.output[0], ())
    if weight is None or not shape or not all(shape):
        return None
    # each output is a sum over the weights of its channel
    outputs = shape[1] if node.op_type == "Conv" else shape[-1]
    macs = math.prod(shape) * weight.size // outputs // batch_size
    nonzeros = int(np.count_nonzero(weight))
    return LayerEntry(
        name=node.name or node.output[0],
        op=_LAYERS[node.op_type],
        weight_shape=weight.shape,
        pattern="dense",
        nonzeros=nonzeros,
        density=nonzeros / max(weight.size, 1),
        macs_dense=macs,
        macs_nonzero=macs * nonzeros // max(weight.size, 1),
        format="dense",
        reason="the engine computes every zero",
    )


def _shape(value: ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
