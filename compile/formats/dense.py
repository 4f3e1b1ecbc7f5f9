"""All weights, blocks of output channels side by side, with one list of tap offsets for all of them."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.format import Cut
from compile.native.taps import Taps


class Dense(msgspec.Struct, frozen=True):
    """``matrix`` is ``(N/block rounded up, C*R*S, block)``, ``offsets`` ``(C*R*S,)`` in bytes."""

    chunks: int
    bounds: NDArray[np.int32]
    matrix: NDArray[np.float32]
    offsets: NDArray[np.int32]


def reject(weight: NDArray[np.float32]) -> str | None:
    """Every weight can be kept dense."""
    del weight
    return None


def pack(weight: NDArray[np.float32], taps: Taps, cut: Cut) -> Dense:
    """Pack ``weight`` ``(N, C, R, S)`` of an ungrouped convolution; the last block is padded with zeros."""
    block = cut.block
    assert taps.groups == 1, "the dense kernel shares one list of taps among all output channels"
    outputs = len(weight)
    blocks = -(-outputs // block)
    padded = np.zeros((blocks * block, weight[0].size), np.float32)
    padded[:outputs] = weight.reshape(outputs, -1)
    matrix = padded.reshape(blocks, block, -1).transpose(0, 2, 1)
    groups = min(cut.groups, blocks)
    bounds = np.minimum(outputs, block * (blocks * np.arange(groups + 1) // groups)).astype(np.int32)
    chunks = -(-taps.channels // cut.chunk)
    return Dense(
        chunks, bounds, np.ascontiguousarray(matrix), taps.offsets(weight.shape)[0].reshape(-1).astype(np.int32)
    )


def unpack(packed: Dense, taps: Taps, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """The exact weight that was packed."""
    del taps
    weight: NDArray[np.float32] = packed.matrix.transpose(0, 2, 1).reshape(-1, *shape[1:])[: shape[0]].copy()
    return weight
