"""The kernels of a convolution: one table that drives what is generated, what is tuned, and what the tests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import find_format
from compile.formats.offset_stream import offset_type
from compile.graph import Conv
from compile.native.taps import Taps


class Kernel(msgspec.Struct, frozen=True):
    """One kernel; its format is ``compile/formats/<name>.py``, its code ``kernels/<name>.h``.

    ``type`` is the C++ class template. It is built from ``arrays`` of the packed weight (C++ type and attribute, in the
    order of its members) and what a task is given; where it ``narrows``, offsets have as few bits as they can.
    ``blocks`` are the numbers of output channels that may share a load. ``registers(vectors, block)`` is what a tile of
    ``vectors`` needs. ``grouped`` says whether it takes grouped convolutions, ``channel_lanes`` whether it wants
    channels in the lanes; a block then counts vectors of them.
    """

    name: str
    type: str
    blocks: tuple[int, ...]
    grouped: bool
    arrays: tuple[tuple[str, str], ...]
    registers: Callable[[int, int], int]
    narrows: bool = False
    channel_lanes: bool = False

    def reject(self, conv: Conv) -> str | None:
        """Why this kernel cannot or should not run a convolution, or ``None``."""
        if conv.groups > 1 and not self.grouped:
            return f"the {self.name} kernel takes no grouped convolution"
        return find_format(self.name).reject(conv.weight)

    def constants(self, taps: Taps, shape: tuple[int, ...]) -> dict[str, str]:
        """What its code must know of a weight beside the convolution's shape; not how the weight is cut."""
        return {"int OFFSET_BITS": str(8 * offset_type(taps, shape).itemsize)} if self.narrows else {}

    def call(self) -> str:
        """C++ that makes one from the ``work`` of a task whose shape is ``S``."""
        members = "".join(f"\n      work.packed<{kind}>({number})," for number, (kind, _) in enumerate(self.arrays))
        return f"{self.type}<S>{{{members}\n      work}}"


_STREAM = (("Segment", "segments"), ("Row", "rows"), ("float", "weights"), ("Offset<S>", "offsets"))


# In the order in which a layer is offered to them where nothing is measured.
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel(
            name="offset_stream",
            type="OffsetStream",
            blocks=(1,),
            grouped=True,
            arrays=_STREAM,
            narrows=True,
            registers=lambda vectors, _: vectors + 2,  # the sums, a weight and an operand
        ),
        Kernel(
            name="pair_stream",
            type="PairStream",
            blocks=(2,),
            grouped=False,
            arrays=(
                ("Segment", "segments"),
                ("Pair", "pairs"),
                ("float", "weights"),
                ("Offset<S>", "offsets"),
                ("int32_t", "offset_starts"),
            ),
            narrows=True,
            registers=lambda vectors, block: vectors * block + block + 1,
        ),
        Kernel(
            name="block_stream",
            type="BlockStream",
            blocks=(4,),
            grouped=False,
            arrays=_STREAM,
            narrows=True,
            registers=lambda vectors, block: vectors * block + block + 1,
        ),
        Kernel(
            name="dense",
            type="Dense",
            blocks=(4, 3, 2),
            grouped=False,
            arrays=(("int32_t", "offsets"), ("float", "matrix")),
            registers=lambda vectors, block: vectors * block + block + 1,
        ),
        Kernel(
            name="dense_channels",
            type="DenseChannels",
            blocks=(8, 4, 3, 2, 1),
            grouped=False,
            arrays=(("Run", "runs"), ("Chunk", "sections"), ("float", "matrix")),
            registers=lambda vectors, block: vectors * block + block + 1,
            channel_lanes=True,
        ),
    )
}


def cut_array(chunks: int, bounds: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """What the kernels' ``Cut`` reads: chunks, groups, and the output channels at which groups begin and end."""
    return np.concatenate(([chunks, len(bounds) - 1], bounds)).astype(np.int32)
