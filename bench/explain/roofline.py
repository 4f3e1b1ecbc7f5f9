"""The least time that a layer can take on this processor: its multiply-adds at the peak, or its bytes read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.machine.peaks import line_of

if TYPE_CHECKING:
    from bench.machine.speed import Speed
    from runtime.artifact import LayerEntry

# of 16-bit offsets per weight, beside its value; a block of 4 shares its offset, a pair some
_OFFSET_BYTES = {"offset_stream": 2.0, "pair_stream": 1.5, "block_stream": 0.5}


class Bound(msgspec.Struct, frozen=True):
    """What a layer needs for a whole batch (Williams et al., Roofline, 2009).

    Attributes:
        compute_us: its multiply-adds at the peak from registers.
        memory_us: its bytes at the bandwidth of ``place``.
        bytes: weights as they are stored, the input once and the result once; at least that must be moved.
        place: ``L2`` where all that could be in a cache, whose speed no level beyond it can have; else ``DRAM``.
        intensity: floating-point operations per byte.
    """

    compute_us: float
    memory_us: float
    bytes: int
    place: str
    intensity: float

    @property
    def us(self) -> float:
        """The bound itself."""
        return max(self.compute_us, self.memory_us)

    @property
    def waits_for_memory(self) -> bool:
        """Whether bytes bind more than multiply-adds."""
        return self.memory_us > self.compute_us


def usable_macs(layer: LayerEntry) -> int:
    """Multiply-adds per picture that the layer's format executes: zeros are skipped by the streams alone."""
    if layer.macs_usable is not None:
        return layer.macs_usable
    return layer.macs_nonzero if layer.format in _OFFSET_BYTES else layer.macs_dense


def positions(layer: LayerEntry) -> int:
    """Output pixels of one picture."""
    return layer.macs_dense // max(math.prod(layer.weight_shape), 1)


def moved_bytes(layer: LayerEntry, batch_size: int, dtype: str = "float32") -> int:
    """Bytes of the weights, and of input and result of the whole batch, in numbers of ``dtype``.

    The manifest does not tell the stride, so that an input pixel per output pixel is counted; it may be more.
    """
    outputs, inputs = layer.weight_shape[0], layer.weight_shape[1]
    number, offset = np.dtype(dtype).itemsize, _OFFSET_BYTES.get(layer.format)
    weights = layer.nonzeros * (number + offset) if offset else math.prod(layer.weight_shape) * number
    return round(weights + batch_size * positions(layer) * (outputs + inputs) * number)


def bound(layer: LayerEntry, batch_size: int, speed: Speed, last_cache_bytes: int, dtype: str = "float32") -> Bound:
    """The bound on a processor with these speeds and this last-level cache, of multiply-adds in ``dtype``."""
    flops = 2 * usable_macs(layer) * batch_size
    moved = moved_bytes(layer, batch_size, dtype)
    place = "L2" if moved <= last_cache_bytes else "DRAM"
    return Bound(
        compute_us=flops / speed.gflops[line_of("registers", dtype)] / 1e3,
        memory_us=moved / speed.gbytes_per_s[place] / 1e3,
        bytes=moved,
        place=place,
        intensity=flops / max(moved, 1),
    )
