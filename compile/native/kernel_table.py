"""The kernels of a convolution: one table that drives what is generated, what is tuned, and what the tests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import find_format
from compile.formats.dense import input_step
from compile.formats.offset_stream import offset_type
from compile.graph import Conv
from compile.native.taps import Taps


class Kernel(msgspec.Struct, frozen=True):
    """One kernel; its format is ``compile/formats/<name>.py``, its code ``kernels/<header>.h`` (its name by default).

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
    header: str = ""

    @property
    def dense(self) -> bool:
        """Whether it multiplies with zeros as well."""
        return self.type == "Dense"

    def reject(self, conv: Conv) -> str | None:
        """Why this kernel cannot or should not run a convolution, or ``None``."""
        if conv.groups > 1 and not self.grouped:
            return f"the {self.name} kernel takes no grouped convolution"
        return find_format(self.name).reject(conv.weight)

    def constants(self, taps: Taps, shape: tuple[int, ...]) -> dict[str, str]:
        """What its code must know of a weight beside the convolution's shape; not how the weight is cut."""
        if self.dense:
            return {"bool CHANNEL_LANES": str(self.channel_lanes).lower(), "long X_INPUT": str(input_step(taps, shape))}
        return {"int OFFSET_BITS": str(8 * offset_type(taps, shape).itemsize)} if self.narrows else {}

    def call(self) -> str:
        """C++ that makes one from the ``work`` of a task whose shape is ``S``."""
        members = "".join(f"\n      work.packed<{kind}>({number})," for number, (kind, _) in enumerate(self.arrays))
        return f"{self.type}<S>{{{members}\n      work}}"


_DENSE = (("Run", "runs"), ("Chunk", "sections"), ("real", "matrix"))
_DENSE_BLOCKS = (9, 8, 6, 5, 4, 3, 2, 1)
_STREAM = (("Segment", "segments"), ("Row", "rows"), ("real", "weights"), ("Offset<S>", "offsets"))


def _dense_registers(vectors: int, block: int) -> int:
    """The sums, the fewer of inputs and weights, and one of the others."""
    return vectors * block + min(vectors, block) + 1


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
                ("real", "weights"),
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
            blocks=_DENSE_BLOCKS,
            grouped=False,
            arrays=_DENSE,
            registers=_dense_registers,
        ),
        Kernel(
            name="dense_channels",
            type="Dense",
            blocks=_DENSE_BLOCKS,
            grouped=False,
            arrays=_DENSE,
            registers=_dense_registers,
            channel_lanes=True,
            header="dense",
        ),
    )
}


def cut_array(chunks: int, bounds: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """What the kernels' ``Cut`` reads: chunks, groups, and the output channels at which groups begin and end."""
    return np.concatenate(([chunks, len(bounds) - 1], bounds)).astype(np.int32)
