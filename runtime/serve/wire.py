"""What the front and a worker say to each other: short packets over a socket; the tensors lie in shared memory.

The front sends a ``Start``, the worker answers ``Ready`` or ``Failed``. Then, batch by batch, the front lays rows into
the shared memory and sends their number, and the worker lays the outputs behind them and answers ``Done`` or
``Failed``. The end of the socket is the end of the worker.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKET_BYTES = 65536
"""No packet is longer."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """Load this artifact, whose manifest must have this digest, for batches of up to ``max_batch`` rows."""

    path: str
    digest: str
    max_batch: int
    threads: int | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine is loaded and warm. ``run_ms`` is what a batch of each compiled size took."""

    run_ms: dict[int, float]


class Done(msgspec.Struct, frozen=True, tag=True):
    """The outputs lie in the shared memory; the engine ran for ``run_ms``."""

    run_ms: float


class Failed(msgspec.Struct, frozen=True, tag=True):
    """What went wrong, in one line."""

    reason: str


Answer = Ready | Done | Failed


class Shape(msgspec.Struct, frozen=True):
    """Rows of the shared memory: the largest batch, and one row of the input and of each output."""

    max_batch: int
    row: tuple[int, ...]
    output_rows: tuple[tuple[int, ...], ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the largest batch's input and outputs."""
        return 4 * self.max_batch * sum(int(np.prod(row, dtype=np.int64)) for row in (self.row, *self.output_rows))


def views(memory: mmap.mmap, shape: Shape) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """The input and each output of the largest batch, as arrays over the shared memory."""
    flat = np.frombuffer(memory, np.float32)
    arrays = []
    start = 0
    for row in (shape.row, *shape.output_rows):
        length = shape.max_batch * int(np.prod(row, dtype=np.int64))
        arrays.append(flat[start : start + length].reshape(shape.max_batch, *row))
        start += length
    return arrays[0], arrays[1:]
