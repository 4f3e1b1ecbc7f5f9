"""The weight file of a generated network: aligned blocks behind a header, addressed by byte offset."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from runtime.abi import WEIGHT_MAGIC

_ALIGN = 64


class WeightFile:
    """Collects arrays; ``add`` returns where one will lie."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = _ALIGN  # the header's place

    def add(self, array: NDArray[np.generic]) -> int:
        """Append an array; its byte offset in the file, a multiple of 64."""
        at = self._size
        raw = np.ascontiguousarray(array).tobytes()
        raw += bytes(-len(raw) % _ALIGN)
        self._parts.append(raw)
        self._size += len(raw)
        return at

    def finish(self) -> tuple[bytes, int]:
        """The whole file, and the 64-bit content number that the library checks."""
        body = b"".join(self._parts)
        content = int.from_bytes(hashlib.sha256(body).digest()[:8], "little")
        header = WEIGHT_MAGIC + content.to_bytes(8, "little")
        return header + bytes(_ALIGN - len(header)) + body, content
