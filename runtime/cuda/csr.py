"""``st3::csr``: sparse direct convolution on CUDA cores, compiled by NVRTC for the geometry of each layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from runtime.cuda import nvrtc

FIELDS = (
    "ELEMENT_BITS", "BFLOAT", "PAIR", "BATCH", "CHANNELS", "HEIGHT", "WIDTH", "OUTPUTS", "OUT_HEIGHT", "OUT_WIDTH",
    "STRIDE_H", "STRIDE_W", "PAD_H", "PAD_W", "ROW_STEP", "LANE_ROW_STEP", "PHASE_PITCH", "PITCH", "STORED_ROWS",
    "SLOTS", "SLOT_PITCH", "TILE_ROWS", "LANE_PIECES", "LANE_ROWS", "LANE_COLUMNS", "STEPS", "Q", "PIECES",
    "TILES_DOWN", "TILES_ACROSS", "PACKS", "CHUNK", "CHUNKS", "WARPS", "G", "VECTOR", "BLOCKS_PER_SM",
    "RESIDUAL", "RELU",
)  # fmt: skip
"""The macros of ``kernels/csr.cu`` in the order in which the op takes their values."""


def source(geometry: Sequence[int]) -> str:
    """The kernel's file with its sizes defined."""
    defined = "".join(f"#define {name} {value}\n" for name, value in zip(FIELDS, geometry, strict=True))
    return defined + nvrtc.source("csr.cu")


def shared_bytes(geometry: Sequence[int]) -> int:
    """Bytes of shared memory of a block."""
    sizes = dict(zip(FIELDS, geometry, strict=True))
    return 4 * sizes["SLOTS"] * sizes["SLOT_PITCH"]


def grid(geometry: Sequence[int]) -> tuple[int, int, int]:
    """Blocks of pixels, blocks of output channels, and 1."""
    sizes = dict(zip(FIELDS, geometry, strict=True))
    pieces = sizes["Q"] * sizes["LANE_PIECES"]
    return -(-sizes["PIECES"] // pieces), -(-sizes["OUTPUTS"] // (sizes["WARPS"] * sizes["G"])), 1


@torch.library.custom_op("st3::csr", mutates_args=())
def csr(
    x: Tensor,
    entries: Tensor,
    starts: Tensor,
    packs: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    shape: Sequence[int],
    geometry: Sequence[int],
) -> Tensor:
    """``activation(conv(x) + bias + residual)`` of the shape ``(B, N, P, Q)``, channels last.

    Args:
        x: channels last, as the geometry says.
        entries: ``(n + 1, 8)`` int32, four non-zeros of a channel: byte offsets in shared memory and float32 weights.
        starts: int32, where each channel's entries begin: block of channels, chunk, warp, channel; and their end.
        packs: int32, which packs of input channels (16 bytes) are read at all.
        bias: ``(N,)`` float32.
        residual: like the result, or ``None``.
        shape: of the result.
        geometry: the values of ``FIELDS``.
    """
    y = torch.empty(tuple(shape), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    assert x.is_contiguous(memory_format=torch.channels_last), f"x has strides {x.stride()}, want channels last"
    assert (
        residual is None or residual.stride() == y.stride() or residual.is_contiguous(memory_format=torch.channels_last)
    ), "the residual must be channels last"
    with torch.cuda.device(x.device):
        image, blocks, threads, shared = _kernel(tuple(geometry), x.device.index)
        args = (x, entries, starts, packs, bias, residual, y)
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in args]
        handle = nvrtc.function(image, "st3_csr", shared)
        stream = torch.cuda.current_stream().cuda_stream
        nvrtc.launch(handle, blocks, threads, shared, stream, pointers, early=False)
    return y


@csr.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    shape = rest[-2]
    return torch.empty(tuple(shape), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@functools.cache
def _kernel(geometry: tuple[int, ...], device: int) -> tuple[bytes, tuple[int, int, int], int, int]:
    major, minor = torch.cuda.get_device_capability(device)
    image = nvrtc.cubin(source(geometry), f"sm_{major}{minor}")
    return image, grid(geometry), 32 * geometry[FIELDS.index("WARPS")], shared_bytes(geometry)
