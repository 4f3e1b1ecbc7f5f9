"""The weight file of a generated network: a header, a directory, and aligned arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import Cut, find_format
from compile.half import as_half
from compile.native.taps import Taps
from runtime.abi import WEIGHT_MAGIC

_ALIGN = 64
_REMEMBERED = 2**31  # bytes of packed weights; a large network's versions would fill the memory


class Packs:
    """Packed weights and their digests, made once where they fit: the tuner emits one network in many versions.

    Weights are told apart by where they are, so this must not outlive them.
    """

    def __init__(self) -> None:
        self._packed: dict[tuple[int, str, Taps, Cut], Any] = {}
        self._room = _REMEMBERED
        self._digests: dict[int, bytes] = {}

    def pack(self, form: str, weight: NDArray[np.float32], taps: Taps, cut: Cut) -> Any:
        """``weight`` in a format."""
        key = (id(weight), form, taps, cut)
        if key in self._packed:
            return self._packed[key]
        packed = find_format(form).pack(weight, taps, cut)
        size = sum(value.nbytes for value in msgspec.structs.astuple(packed) if isinstance(value, np.ndarray))
        if size <= self._room:
            self._packed[key] = packed
            self._room -= size
        return packed

    def digest(self, weight: NDArray[np.float32]) -> bytes:
        """SHA-256 of a weight's bytes."""
        if id(weight) not in self._digests:
            self._digests[id(weight)] = hashlib.sha256(np.ascontiguousarray(weight).data).digest()
        return self._digests[id(weight)]


class WeightFile:
    """Collects arrays; ``add`` returns the number under which the generated code finds one.

    The code knows numbers, not offsets, so that one library can run weights that were packed in different ways.
    ``dtype`` is what the network computes in.
    """

    def __init__(self, packs: Packs, dtype: str = "float32") -> None:
        self.packs = packs
        self._dtype = dtype
        self._makers: list[Callable[[], Sequence[NDArray[Any]]]] = []
        self._count = 0

    def add(self, array: NDArray[Any]) -> int:
        """Append an array, which will lie at a multiple of 64 bytes; its number in the file's directory."""
        return self.add_later(1, lambda: (array,))

    def reals(self, array: NDArray[np.float32]) -> NDArray[Any]:
        """The nearest numbers of the network's dtype; raises ``UserError`` where one is beyond its largest."""
        if self._dtype == "float32":
            return array
        infinite = np.isinf(array)  # a mask's, not too large a number
        half = as_half(np.where(infinite, 0.0, array).astype(np.float32))
        half[infinite] = array[infinite]
        return half

    def add_reals(self, array: NDArray[np.float32]) -> int:
        """Append what is computed with, in the network's dtype."""
        return self.add_later(1, lambda: (self.reals(array),))

    def add_later(self, count: int, make: Callable[[], Sequence[NDArray[Any]]]) -> int:
        """Append arrays that are made when they are needed, since packing takes long; the number of the first."""
        self._makers.append(make)
        self._count += count
        return self._count - count

    def content(self, number: int) -> bytes:
        """The whole file: header with the 64-bit content ``number`` and the length, directory, arrays."""
        parts = [_padded(np.ascontiguousarray(array).tobytes()) for make in self._makers for array in make()]
        assert len(parts) == self._count
        first = _ALIGN + -(-8 * len(parts) // _ALIGN) * _ALIGN
        offsets = first + np.concatenate(([0], np.cumsum([len(part) for part in parts])))
        numbers = np.array([number, offsets[-1]], np.uint64)
        header = _padded(WEIGHT_MAGIC + numbers.astype("<u8").tobytes())
        return b"".join([header, _padded(offsets[:-1].astype("<i8").tobytes()), *parts])


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % _ALIGN)
