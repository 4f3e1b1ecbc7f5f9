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
    order of its members), the cut, and the places of a task; ``constants`` are those that the packed weight adds to the
    shape's, and do not depend on chunks and groups. ``blocks`` are the numbers of output channels that may
    share a load. ``registers(vectors, block)`` is what a tile of ``vectors`` needs. ``grouped`` says whether it takes
    grouped convolutions, ``channel_lanes`` whether it wants channels in the lanes; a block then counts vectors of them.
    """

    name: str
    type: str
    blocks: tuple[int, ...]
    grouped: bool
    arrays: Callable[[Any], Arrays]
    constants: Callable[[Any], dict[str, str]]
    registers: Callable[[int, int], int]
    channel_lanes: bool = False

    def reject(self, conv: Conv) -> str | None:
        """Why this kernel cannot or should not run a convolution, or ``None``."""
        if conv.groups > 1 and not self.grouped:
            return f"the {self.name} kernel takes no grouped convolution"
        return find_format(self.name).reject(conv.weight)


def _stream_arrays(packed: Any) -> Arrays:
    return (
        ("Segment", packed.segments),
        ("Row", packed.rows),
        ("float", packed.weights),
        ("Offset<S>", packed.offsets),
    )


def _pair_arrays(packed: Any) -> Arrays:
    return (
        ("Segment", packed.segments),
        ("Pair", packed.pairs),
        ("float", packed.weights),
        ("Offset<S>", packed.offsets),
        ("int32_t", packed.offset_starts),
    )


def _stream_constants(packed: Any) -> dict[str, str]:
    return {"int OFFSET_BITS": str(8 * packed.offsets.itemsize)}


def _dense_arrays(packed: Any) -> Arrays:
    return (("int32_t", packed.offsets), ("float", packed.matrix))


def _channel_arrays(packed: Any) -> Arrays:
    return (("Run", packed.runs), ("Chunk", packed.sections), ("float", packed.matrix))


# In the order in which a layer is offered to them where nothing is measured.
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel(
            name="offset_stream",
            type="OffsetStream",
            blocks=(1,),
            grouped=True,
            arrays=_stream_arrays,
            constants=_stream_constants,
            registers=lambda vectors, _: vectors + 2,  # the sums, a weight and an operand
        ),
        Kernel(
            name="pair_stream",
            type="PairStream",
            blocks=(2,),
            grouped=False,
            arrays=_pair_arrays,
            constants=_stream_constants,
            registers=lambda vectors, block: vectors * block + block + 1,
        ),
        Kernel(
            name="block_stream",
            type="BlockStream",
            blocks=(4,),
            grouped=False,
            arrays=_stream_arrays,
            constants=_stream_constants,
            registers=lambda vectors, block: vectors * block + block + 1,
        ),
        Kernel(
            name="dense",
            type="Dense",
            blocks=(4, 3, 2),
            grouped=False,
            arrays=_dense_arrays,
            constants=lambda _: {},
            registers=lambda vectors, block: vectors * block + block + 1,
        ),
        Kernel(
            name="dense_channels",
            type="DenseChannels",
            blocks=(8, 4, 3, 2, 1),
            grouped=False,
            arrays=_channel_arrays,
            constants=lambda _: {},
            registers=lambda vectors, block: vectors * block + block + 1,
            channel_lanes=True,
        ),
    )
}


def cut_array(chunks: int, bounds: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """What the kernels' ``Cut`` reads: chunks, groups, and the output channels at which groups begin and end."""
    return np.concatenate(([chunks, len(bounds) - 1], bounds)).astype(np.int32)
