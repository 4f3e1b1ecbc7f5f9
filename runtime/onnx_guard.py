"""Refuses an ONNX file that has tensors in other files: only what the manifest lists may be read.

A walk over the protobuf wire format (protobuf.dev/programming-guides/encoding), of no more than finds the tensors
(field numbers: onnx.proto3 of ONNX 1.18), so that running needs no package of ONNX's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a TensorProto
_MAX_DEPTH = 64

# by message, the fields that hold messages and which
_HOLDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}


def refuse_outside(path: Path, content: memoryview) -> None:
    """Raise ``ArtifactError`` where a tensor lies in another file, or the bytes are no protobuf message."""
    try:
        outside = _has_outside(content, "model", 0)
    except (ValueError, IndexError) as error:
        raise ArtifactError(f"{path} is no ONNX file ({error}); copy or compile the artifact again") from error
    if outside:
        raise ArtifactError(f"{path} has a tensor in another file, which an artifact may not have; compile it again")


def _has_outside(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deeply")
    for field, part in _fields(message):
        if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and part != 0)):
            return True
        inner = _HOLDS[kind].get(field)
        if inner is not None:
            if not isinstance(part, memoryview):
                raise ValueError(f"field {field} of a {kind} is no message")
            if _has_outside(part, inner, depth + 1):
                return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and content of each field: bytes, or what a number is."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _number(message, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _number(message, at)
        else:
            length = {1: 8, 5: 4}.get(wire, -1)
        if length < 0 or at + length > len(message):
            raise ValueError("a field is cut off" if length >= 0 else f"wire type {wire}")
        yield key >> 3, message[at : at + length]
        at += length


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")
