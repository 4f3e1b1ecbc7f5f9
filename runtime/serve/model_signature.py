"""What a served model takes and gives: its signature, and the metadata that tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from runtime.artifact import Manifest

DATATYPES = {"float32": "FP32"}
"""The protocol's name of each dtype that a manifest's input or output may have."""
JSON_LIMIT_BYTES = 16 << 20
"""A longer JSON document would hold up every other request while it is read; binary tensors have no such limit."""
_WIDEST_NUMBER = 26  # a double and its comma in JSON


class Output(msgspec.Struct, frozen=True):
    """One output of a model: its name, and its shape without the batch."""

    name: str
    row: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True):
    """What a model takes and gives. ``row`` is the input's shape without the batch.

    ``max_batch`` is the largest number of rows in one request and in one batch.
    """

    name: str
    version: str
    platform: str
    input: str
    row: tuple[int, ...]
    outputs: tuple[Output, ...]
    max_batch: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the input."""
        return 4 * int(np.prod(self.row, dtype=np.int64))

    @property
    def body_limit_bytes(self) -> int:
        """The longest body that can be a request: the largest batch as binary, or as JSON up to its own limit."""
        elements = self.max_batch * self.row_bytes // 4
        return (64 << 10) + max(4 * elements, min(_WIDEST_NUMBER * elements, JSON_LIMIT_BYTES))


def signature_of(manifest: Manifest, name: str, version: int) -> Signature:
    """The signature of an artifact under the name that it is served by."""
    return Signature(
        name=name,
        version=str(version),
        platform=f"st3_{manifest.engine}",
        input=manifest.input.name,
        row=manifest.input.shape[1:],
        outputs=tuple(Output(spec.name, spec.shape[1:]) for spec in manifest.outputs),
        max_batch=manifest.target.sizes[-1],
    )


def model_metadata(signature: Signature) -> dict[str, Any]:
    """The answer to ``GET /v2/models/NAME``."""

    def tensor(name: str, row: tuple[int, ...]) -> dict[str, Any]:
        return {"name": name, "datatype": "FP32", "shape": [-1, *row]}

    return {
        "name": signature.name,
        "versions": [signature.version],
        "platform": signature.platform,
        "inputs": [tensor(signature.input, signature.row)],
        "outputs": [tensor(output.name, output.row) for output in signature.outputs],
    }
