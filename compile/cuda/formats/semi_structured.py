"""2:4 weights for sparse tensor cores: at most two of each four consecutive input channels of a filter tap are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 64  # output channels, and input channels of one tap, of a block
_VALUES = BLOCK * BLOCK  # bytes: half of the values, two bytes each
BLOCK_BYTES = _VALUES + 4 * 128  # and a word of metadata per thread of a warpgroup


def pack(weight: Tensor, layout: int = 0) -> dict[str, Tensor]:
    blocks = _blocks(weight)  # (M, C, T, 64, 64)
    fours = blocks.unflatten(-1, (16, 4))
    bits = fours.view(torch.int16)
    key = 2 * (fours != 0).to(torch.int8) + (bits != 0).to(torch.int8)
    places = key.argsort(dim=-1, descending=True, stable=True)[..., :2].sort(-1).values
    values = fours.gather(-1, places).flatten(-2)  # (M, C, T, 64, 32)
    values = values.unflatten(-1, (4, 8)).transpose(-2, -3)  # cores: (M, C, T, 4, 64, 8)
    nibbles = places[..., 0] | places[..., 1] << 2  # (M, C, T, 64, 16)
    shifts = torch.tensor([0, 4, 8, 12])
    quarters = (nibbles.unflatten(-1, (4, 4)) << shifts).sum(-1)  # (M, C, T, 64, 4)
    rows = quarters.unflatten(-2, (4, 2, 8))  # warp, upper or lower half of its 16 rows, row
    if layout == 0:
        words = rows[..., 0, :, :] | rows[..., 1, :, :] << 16  # (M, C, T, 4, 8, 4)
    else:
        pairs = rows[..., 0::2] | rows[..., 1::2] << 16  # (M, C, T, 4, 2, 8, kk)
        words = pairs.permute(0, 1, 2, 3, 5, 6, 4).flatten(-2)
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    packed = torch.cat([_bytes(values, 3), _bytes(words, 3)], -1)
    return {"weight": packed.contiguous()}


def _bytes(block: Tensor, lead: int) -> Tensor:
    return block.contiguous().view(torch.uint8).flatten(lead)


def _blocks(weight: Tensor) -> Tensor:
    """``(N, C, R, S)`` as ``(N / 64, C / 64, R * S, 64, 64)``, padded with zeros."""
    outputs, channels = weight.shape[:2]
    padded = weight.new_zeros(-(-outputs // BLOCK) * BLOCK, -(-channels // BLOCK) * BLOCK, *weight.shape[2:])
    padded[:outputs, :channels] = weight
    return padded.flatten(2).unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).permute(0, 2, 4, 1, 3)


def unpack(buffers: dict[str, Tensor], shape: Sequence[int], dtype: torch.dtype = torch.float16) -> Tensor:
    """The weight ``(N, C, R, S)`` that was packed."""
    packed = buffers["weight"]
    values = packed[..., :_VALUES].contiguous().view(dtype).unflatten(-1, (4, 64, 8)).transpose(-2, -3).flatten(-2)
    words = packed[..., _VALUES:].contiguous().view(torch.int32).long().unflatten(-1, (4, 8, 4))
    quarters = torch.stack([words & 0xFFFF, (words >> 16) & 0xFFFF], -3).flatten(-4, -2)  # (M, C, T, 64, 4)
    nibbles = (quarters[..., None] >> torch.tensor([0, 4, 8, 12])) & 15
    places = torch.stack([nibbles & 3, nibbles >> 2], -1).flatten(-3, -2)  # (M, C, T, 64, 16, 2)
    blocks = values.new_zeros(*values.shape[:-1], 16, 4)
    blocks.scatter_(-1, places, values.unflatten(-1, (16, 2)))
    dense = blocks.flatten(-2).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return dense[: shape[0], : shape[1]].reshape(tuple(shape)).contiguous()
