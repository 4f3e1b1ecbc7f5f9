"""The open inference protocol (KServe v2) on the wire: JSON and binary tensors into arrays, and arrays back.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol; the binary tensors are Triton's
extension of it (``Inference-Header-Content-Length``: the length of the JSON that comes before the raw bytes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from runtime.serve.model_signature import JSON_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runtime.serve.model_signature import Signature

HEADER_LENGTH = "Inference-Header-Content-Length"


class RequestError(Exception):
    """A request that is answered with an error: the HTTP status and one line of why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class InferRequest(msgspec.Struct, frozen=True):
    """A request that fits its model: the rows, and the outputs that are wanted.

    ``outputs`` are places in ``Signature.outputs``, in the order of the answer, and whether each is to be binary.
    """

    id: str
    rows: NDArray[np.float32]
    outputs: tuple[tuple[int, bool], ...]


# an integer without bounds may be too long to be printed in the line that refuses it
_Length = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Tensor(msgspec.Struct):
    name: str
    shape: list[_Length]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Body(msgspec.Struct):
    inputs: list[_Tensor]
    outputs: list[_Output] = []
    id: str = ""
    parameters: dict[str, Any] = {}


_DECODER = msgspec.json.Decoder(_Body)
_NUMBERS = msgspec.json.Decoder(list[float])
_ENCODER = msgspec.json.Encoder()


def read_request(signature: Signature, body: bytes, header: str | None) -> InferRequest:
    """The rows of an infer request.

    Args:
        signature: the model that it is for.
        body: the whole body, decompressed.
        header: the value of ``Inference-Header-Content-Length``, if it was sent; 0 means that the body is nothing but
            the one input's bytes.

    Raises:
        RequestError: it does not fit; the message says what was given and what is needed.
    """
    length = _header_length(header, len(body))
    if length == 0 and header is not None:
        rows = _from_bytes(signature, memoryview(body), None)
        return InferRequest("", _checked(signature, rows), _all_outputs(signature, binary=True))
    if length > JSON_LIMIT_BYTES:
        raise RequestError(413, f"{length} bytes of JSON exceed {JSON_LIMIT_BYTES}; send the tensor as binary data")
    document = _decode(memoryview(body)[:length])
    _refuse_unsupported(document)
    tensor = _only_input(signature, document)
    rest = memoryview(body)[length:]
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if len(rest):
            raise RequestError(400, f"{len(rest)} bytes follow the JSON, but no input has a binary_data_size")
        rows = _from_json(signature, tensor)
    else:
        if type(size) is not int or size != len(rest):
            raise RequestError(400, f"binary_data_size must be {len(rest)}: so many bytes follow the JSON")
        if tensor.data:
            raise RequestError(400, f"input {tensor.name!r} has both data and binary_data_size; send one of them")
        rows = _from_bytes(signature, rest, tensor.shape)
    return InferRequest(document.id, _checked(signature, rows), _wanted_outputs(signature, document))


def write_response(
    signature: Signature, request: InferRequest, outputs: Sequence[NDArray[np.float32]]
) -> tuple[bytes, int]:
    """The body of an answer, and the length of its JSON where bytes follow (0 where none do).

    Args:
        signature: the model's.
        request: which says what is wanted.
        outputs: all that the model answered, in the signature's order.

    Raises:
        RequestError: an output is to be JSON, which has no form for an infinity or NaN, and holds one.
    """
    tensors: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for index, binary in request.outputs:
        output = outputs[index]
        tensor: dict[str, Any] = {"name": signature.outputs[index].name, "datatype": "FP32", "shape": output.shape}
        tensors.append(tensor)
        if binary:
            raw.append(output.tobytes())
            tensor["parameters"] = {"binary_data_size": len(raw[-1])}
        elif _is_finite(output):
            tensor["data"] = output.ravel().tolist()
        else:
            raise RequestError(
                400, "the answer to this input is not finite, which JSON cannot say; ask for binary_data"
            )
    answer: dict[str, Any] = {"model_name": signature.name, "model_version": signature.version, "outputs": tensors}
    if request.id:
        answer["id"] = request.id
    head = _ENCODER.encode(answer)
    return (b"".join([head, *raw]), len(head)) if raw else (head, 0)


def _header_length(header: str | None, body_length: int) -> int:
    if header is None:
        return body_length
    if not (header.isascii() and header.isdigit() and len(header) < 12 and int(header) <= body_length):
        raise RequestError(400, f"{HEADER_LENGTH} must be a number from 0 to {body_length}, the body's length")
    return int(header)


def _decode(text: memoryview) -> _Body:
    try:
        return _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the body is no inference request: {error}") from None
    except RecursionError:
        raise RequestError(400, "the body is no inference request: its JSON is nested too deep") from None


def _refuse_unsupported(document: _Body) -> None:
    given = [document.parameters]
    given += [tensor.parameters for tensor in document.inputs]
    given += [output.parameters for output in document.outputs]
    for parameters in given:
        for key in ("shared_memory_region", "classification", "sequence_id"):
            if parameters.get(key):
                raise RequestError(400, f"the parameter {key} is not supported here")


def _only_input(signature: Signature, document: _Body) -> _Tensor:
    names = [tensor.name[:80] for tensor in document.inputs[:4]]
    if len(document.inputs) != 1 or document.inputs[0].name != signature.input:
        raise RequestError(
            400,
            f"model {signature.name!r} takes one input named {signature.input!r}, got {len(document.inputs)}: {names}",
        )
    tensor = document.inputs[0]
    if tensor.datatype != "FP32":
        raise RequestError(400, f"input {signature.input!r} is FP32, got {tensor.datatype[:20]!r}")
    shape = tensor.shape
    if tuple(shape[1:]) != signature.row or not shape or not 1 <= shape[0] <= signature.max_batch:
        wanted = ", ".join(map(str, signature.row))
        raise RequestError(
            400,
            f"input {signature.input!r} must have shape [n, {wanted}] with n from 1 to {signature.max_batch}, "
            f"got {shape[:8]}",
        )
    return tensor


def _all_outputs(signature: Signature, binary: bool) -> tuple[tuple[int, bool], ...]:
    return tuple((index, binary) for index in range(len(signature.outputs)))


def _wanted_outputs(signature: Signature, document: _Body) -> tuple[tuple[int, bool], ...]:
    """What the request names, in its order; all where it names none."""
    default = document.parameters.get("binary_data_output", False) is True
    if not document.outputs:
        return _all_outputs(signature, default)
    places = {output.name: index for index, output in enumerate(signature.outputs)}
    wanted: dict[int, bool] = {}
    for output in document.outputs:
        index = places.get(output.name)
        if index is None or index in wanted:
            what = "asked for" if index is None else "asked twice for"
            raise RequestError(
                400, f"model {signature.name!r} has {_listed(list(places))}; {what} {output.name[:80]!r}"
            )
        wanted[index] = output.parameters.get("binary_data", default) is True
    return tuple(wanted.items())


def _listed(names: list[str]) -> str:
    return f"one output, {names[0]!r}" if len(names) == 1 else f"the outputs {[name[:80] for name in names[:20]]}"


def _from_bytes(signature: Signature, raw: memoryview, shape: list[int] | None) -> NDArray[np.float32]:
    """The tensor as it lies in the body; ``shape`` is known to fit the model, without it the length says it."""
    rows = len(raw) // signature.row_bytes if shape is None else shape[0]
    if len(raw) != rows * signature.row_bytes or not 1 <= rows <= signature.max_batch:
        raise RequestError(
            400,
            f"{rows or 'n'} rows of input {signature.input!r} are {signature.row_bytes} bytes each, "
            f"up to {signature.max_batch} of them; got {len(raw)} bytes",
        )
    # the protocol's order is little endian
    return np.frombuffer(raw, "<f4").reshape(rows, *signature.row)


def _from_json(signature: Signature, tensor: _Tensor) -> NDArray[np.float32]:
    if not tensor.data:
        raise RequestError(400, f"input {tensor.name!r} has neither data nor binary_data_size")
    try:
        with np.errstate(over="ignore"):
            array = np.array(_flat(tensor.data), np.float32)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        raise RequestError(
            400, f"the data of input {tensor.name!r} must be numbers in a list, flat or nested like {tensor.shape}"
        ) from None
    wanted = (tensor.shape, [signature.row_bytes // 4 * tensor.shape[0]])
    if list(array.shape) not in wanted:
        raise RequestError(
            400,
            f"the data of input {tensor.name!r} has shape {list(array.shape)[:8]}, but {tensor.shape} was announced",
        )
    return array.reshape(tensor.shape)


def _flat(raw: msgspec.Raw) -> Any:
    """The numbers: one list, the usual and fast case, or nested ones."""
    try:
        return _NUMBERS.decode(raw)
    except msgspec.ValidationError:
        nested = msgspec.json.decode(raw)
        array = np.array(nested)
        if array.dtype.kind not in "iuf":  # true, "1" and null are no numbers
            raise TypeError from None
        return array


def _checked(signature: Signature, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if not _is_finite(rows):
        raise RequestError(400, f"input {signature.input!r} holds NaN, infinity or a number too large for FP32")
    return rows


def _is_finite(array: NDArray[np.float32]) -> bool:
    # one pass without a temporary answers nearly always: only where the sum itself overflows, every number is looked at
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())
