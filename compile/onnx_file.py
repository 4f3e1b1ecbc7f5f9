"""Opens an ONNX file: one picture tensor in, tensors out, a known opset, and its digest with external weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, inliner, numpy_helper

from compile.network import refuse_large
from runtime.data import sha256_of
from runtime.errors import UserError

OPSETS = (13, 23)
_AGAIN = "export the network again"


class OnnxFile(msgspec.Struct, frozen=True):
    """A checked model with its weights. ``shape`` is ``(C, H, W)``; ``batch`` is ``None`` where it is dynamic.

    ``constants`` are the weights by name, those that are stored sparse among them.
    """

    path: Path
    model: ModelProto
    opset: int
    input_name: str
    output_names: tuple[str, ...]
    shape: tuple[int, int, int]
    batch: int | None
    constants: dict[str, NDArray[Any]]


def read_onnx(path: Path) -> OnnxFile:
    """Read a file whole, external weights included.

    Raises:
        UserError: the file is damaged, of another opset, or not a network of one picture.
    """
    try:
        model = onnx.load(path)
        # the checker asks for the shapes of outputs, which neither ONNX Runtime nor st3 needs
        shapeless = [value.type.tensor_type for value in model.graph.output if not _has_shape(value)]
        for kind in shapeless:
            kind.shape.SetInParent()
        onnx.checker.check_model(model)
        for kind in shapeless:
            kind.ClearField("shape")
        constants = _constants(model.graph)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError, LookupError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} is no whole ONNX file: {first}; copy it again (with its data file) or {_AGAIN}"
        ) from error
    opset = _opset(path, model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    inputs = [value for value in model.graph.input if value.name not in constants]
    outputs = [value.name for value in model.graph.output]
    given = [value.name for value in inputs]
    if len(given) != 1 or not outputs:
        raise UserError(
            f"{path} takes {given} and returns {outputs}; st3 compiles networks with one picture tensor in; cut the "
            f"others off (onnx.utils.extract_model)"
        )
    for name in outputs:
        is_weight, twice = name in constants, outputs.count(name) > 1
        if is_weight or twice or name in given:
            what = "twice" if twice else "which is a weight" if is_weight else "which is the input"
            raise UserError(f"{path} returns {name!r} {what}; cut it off (onnx.utils.extract_model)")
    batch, shape = _picture(path, inputs[0])
    return OnnxFile(path, model, opset, inputs[0].name, tuple(outputs), shape, batch, constants)


def _constants(graph: GraphProto) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        # one flat index per value, or one row of coordinates
        dense[np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)] = values
        found[sparse.values.name] = dense
    return found


def digest_of(path: Path) -> str:
    """The file's sha256; with external weights the sha256 of its own and its data files' digests, sorted by name."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise UserError(f"{path} is no whole ONNX file: {error}; copy it again or {_AGAIN}") from error
    data = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    own = sha256_of(path)
    if not data:
        return own
    missing = [name for name in sorted(data) if not (path.parent / name).is_file()]
    if missing:
        raise UserError(f"{path} keeps its weights in {missing[0]}, which is not beside it; copy both")
    parts = [own, *(sha256_of(path.parent / name) for name in sorted(data))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _has_shape(value: ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _opset(path: Path, model: ModelProto) -> int:
    found = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    low, high = OPSETS
    if not found or not low <= found[0] <= high:
        raise UserError(
            f"{path} has opset {found[0] if found else 'none'}, st3 reads {low} to {high}; "
            f"export it again with such an opset, or convert it (onnx.version_converter)"
        )
    return int(found[0])


def _picture(path: Path, value: ValueInfoProto) -> tuple[int | None, tuple[int, int, int]]:
    """Batch size and ``(C, H, W)`` of the input."""
    kind = value.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind.elem_type) if value.type.HasField("tensor_type") else "no tensor"
        raise UserError(f"{path}: input {value.name!r} is {name}; st3 compiles float32 networks; {_AGAIN} in float32")
    sizes = [size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim]
    shown = [size.dim_value or size.dim_param or "?" for size in kind.shape.dim]
    if len(sizes) != 4:
        raise UserError(
            f"{path}: input {value.name!r} has shape {shown}; st3 compiles networks of pictures (B, C, H, W)"
        )
    batch, *picture = sizes
    channels, height, width = (size or 0 for size in picture)
    if min(channels, height, width) < 1:
        raise UserError(
            f"{path}: input {value.name!r} has shape {shown}; only the batch may be dynamic: "
            f"{_AGAIN} for one picture size, or fix it (onnx.tools.update_model_dims)"
        )
    refuse_large((batch or 1, channels, height, width))
    return batch or None, (channels, height, width)
