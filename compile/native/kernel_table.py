"""The kernels of a convolution: one table that drives what is generated, what is tuned, and what the tests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import find_format
from compile.graph import Conv

Arrays = tuple[tuple[str, NDArray[Any]], ...]


class Kernel(msgspec.Struct, frozen=True):
    """One kernel; its format is ``compile/formats/<name>.py``, its code ``kernels/<name>.h``.

    ``type`` is the C++ class template. It is built from ``arrays`` of the packed weight (C++ type and content, in the
    order of its members), the cut, and the places of a task. ``blocks`` are the numbers of output channels that may
    share a load. ``registers(vectors, block)`` is what a tile of ``vectors`` needs. ``grouped`` says whether it takes
    grouped convolutions.
    """

    name: str
    type: str
    blocks: tuple[int, ...]
    grouped: bool
    arrays: Callable[[Any], Arrays]
    registers: Callable[[int, int], int]

    def reject(self, conv: Conv) -> str | None:
        """Why this kernel cannot or should not run a convolution, or ``None``."""
        if conv.groups > 1 and not self.grouped:
            return f"the {self.name} kernel takes no grouped convolution"
        return find_format(self.name).reject(conv.weight)


def _stream_arrays(packed: Any) -> Arrays:
    return (("Segment", packed.segments), ("Row", packed.rows), ("Entry", packed.entries))


def _dense_arrays(packed: Any) -> Arrays:
    return (("int32_t", packed.offsets), ("float", packed.matrix))


# In the order in which a layer is offered to them where nothing is measured.
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        # the sums, a weight and an operand
        Kernel("offset_stream", "OffsetStream", (1,), True, _stream_arrays, lambda vectors, _: vectors + 2),
        Kernel("dense", "Dense", (4, 3, 2), False, _dense_arrays, lambda vectors, block: vectors * block + block + 1),
    )
}


def cut_array(chunks: int, bounds: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """What the kernels' ``Cut`` reads: chunks, groups, and the output channels at which groups begin and end."""
    return np.concatenate(([chunks, len(bounds) - 1], bounds)).astype(np.int32)
