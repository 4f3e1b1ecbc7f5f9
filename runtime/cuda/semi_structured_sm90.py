"""How ``kernels/semi_structured_sm90.cu`` is compiled and launched: 2:4 convolutions on Hopper."""

from __future__ import annotations

import ctypes
import functools
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.cuda import nvrtc
from runtime.cuda.semi_structured_grid import BLOCK_BYTES, Grid, Shape, boxes, grid_of

KERNEL = "conv_sparse24_sm90"
_ARCH = "sm_90a"
_PARTS = ("launch", "ptx", "load", "store")
_MAX_TAPS = 64
_ROW_BYTES = 128  # of a patch: 64 channels
_FLOAT16, _BFLOAT16 = 6, 9  # CU_TENSOR_MAP_DATA_TYPE_*


class Launch(NamedTuple):
    """One way to launch the kernel.

    ``tiles`` of 64 channels per warpgroup, ``warpgroups`` and ``pixels`` per block, stages of weights (0: each warp
    reads its own weights into registers; ``tiles`` is 1) and of patches, blocks of a cluster that share patches, parts
    of the reduction (``split``), ``gather`` (a patch per tap), blocks per multiprocessor (``resident``), ``deep`` (a
    step's tensor instructions are issued while the previous step's run).
    """

    tiles: int
    warpgroups: int
    pixels: int
    weight_stages: int
    patch_stages: int
    share: int = 1
    split: int = 1
    gather: int = 0
    resident: int = 1
    deep: int = 1

    @property
    def channels(self) -> int:
        """Output channels of a block."""
        return 64 * self.tiles * self.warpgroups

    @property
    def threads(self) -> int:
        """Threads of a block: consumers, and the warps that copy (a whole warpgroup: see GIVE in the kernel)."""
        if self.weight_stages:
            return 128 * self.warpgroups + 64
        give = (self.warpgroups == 4 or (self.warpgroups == 2 and self.pixels > 160)) and self.resident == 1
        return 128 * self.warpgroups + (128 if give else 32)


class _Params(ctypes.Structure):
    """``Params`` of the kernel."""

    _fields_ = (
        ("x", ctypes.c_uint8 * 128),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "residual", "y")),
        *((name, ctypes.c_int) for name in (
            "batch", "channels", "height", "width", "outputs", "out_height", "out_width", "grid_height", "grid_width",
            "stride_h", "stride_w", "lower_h", "lower_w", "rows", "chunks", "groups", "taps", "relu",
        )),
        ("group_first", ctypes.c_short * (_MAX_TAPS + 1)),
        *((name, ctypes.c_short * _MAX_TAPS) for name in ("group_y", "group_x", "tap", "tap_row")),
        ("pad", ctypes.c_uint8 * 64),  # the compiler's struct is a multiple of 64 bytes
    )  # fmt: skip


def headers(pixels: int, dtype: torch.dtype) -> dict[str, str]:
    """What the kernel includes, by name, for a tile of ``pixels`` columns."""
    parts = {name: nvrtc.source(name) for name in (f"semi_structured_sm90_{part}.h" for part in _PARTS)}
    return {"prelude.h": prelude(pixels, dtype), **parts}


def prelude(pixels: int, dtype: torch.dtype) -> str:
    """The kernel's header: ``wgmma_sp`` and ``wgmma_sp_direct`` for a tile of ``pixels`` columns.

    Inline assembly takes its operands one by one, so there is a text for each width.
    """
    staged = _wgmma("wgmma_sp", ("unsigned long long a",), pixels, dtype)
    words = tuple(f"unsigned a{i}" for i in range(4))
    return staged + _wgmma("wgmma_sp_direct", words, pixels, dtype)


def _wgmma(name: str, weights: tuple[str, ...], pixels: int, dtype: torch.dtype) -> str:
    """``weights``: parameters that hold A, a descriptor or four registers."""
    count, kind = pixels // 2, "bf16" if dtype == torch.bfloat16 else "f16"
    sums, held = _numbered(0, count), _numbered(count, len(weights))
    direct = len(weights) > 1
    places = [f"{{{sums}}}", f"{{{held}}}" if direct else held, *_numbered(count + len(weights), 2).split(", ")]
    selector, more = count + len(weights) + 2, count + len(weights) + 3
    flags = "1, 1, 0" if direct else "1, 1, 0, 0"
    values = [f'"{"r" if direct else "l"}"({weight.split()[-1]})' for weight in weights]
    return f"""template <int SELECTOR>
__device__ __forceinline__ void {name}(
    float (&d)[{count}], {", ".join(weights)}, unsigned long long b, unsigned meta, int more) {{
  asm volatile(
      "{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{more}, 0;\\n"
      "wgmma.mma_async.sp.sync.aligned.m64n{pixels}k32.f32.{kind}.{kind} "
      "{", ".join(places)}, %{selector}, add, {flags};\\n}}"
      : {", ".join(f'"+f"(d[{i}])' for i in range(count))}
      : {", ".join(values)}, "l"(b), "r"(meta), "n"(SELECTOR), "r"(more));
}}
"""


def _numbered(start: int, count: int) -> str:
    return ", ".join(f"%{i}" for i in range(start, start + count))


def defines(launch: Launch, dtype: torch.dtype) -> dict[str, int]:
    """The kernel's macros."""
    return {
        "MT": launch.tiles, "WGM": launch.warpgroups, "TILE_N": launch.pixels, "A_STAGES": launch.weight_stages,
        "B_STAGES": launch.patch_stages, "SHARE": launch.share, "SPLIT_K": launch.split, "MIN_BLOCKS": launch.resident,
        "DEEP": launch.deep, "BF16": int(dtype == torch.bfloat16),
    }  # fmt: skip


@functools.cache
def image(launch: Launch, dtype: torch.dtype) -> bytes:
    """The kernel's cubin for a launch.

    Raises:
        UserError: as ``nvrtc.cubin``.
    """
    text = nvrtc.source("semi_structured_sm90.cu")
    return nvrtc.cubin(text, _ARCH, headers(launch.pixels, dtype), defines(launch, dtype))


def patch_rows(launch: Launch, grid: Grid) -> int:
    """Rows (pixels) of a patch: a block's, and as many more as the furthest tap is shifted; a multiple of 8."""
    return -(-(launch.pixels + max(grid.rows)) // 8) * 8


def shared_bytes(launch: Launch, rows: int) -> int:
    """Shared memory of a block whose patches have ``rows`` rows: the stages, or its result where that takes more."""
    weights = launch.weight_stages * launch.tiles * launch.warpgroups * BLOCK_BYTES
    stages = launch.patch_stages * rows * _ROW_BYTES + weights
    result = launch.pixels * ((launch.channels + 4) * 4 if launch.split > 1 else (launch.channels + 8) * 2)
    return 256 + launch.pixels * 4 + 1024 + max(stages, result)


def blocks(launch: Launch, shape: Shape, batch: int, grid: Grid) -> tuple[int, int, int]:
    """Blocks of pixels, of output channels (whole clusters of them), and parts of the reduction."""
    across = -(-shape.outputs // launch.channels)
    return (
        -(-batch * grid.height * grid.width // launch.pixels),
        -(-across // launch.share) * launch.share,
        launch.split,
    )


def parameters(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    y: Tensor,
    shape: Shape,
    relu: bool,
    launch: Launch,
    grid: Grid,
) -> ctypes.Structure:
    """What the kernel is given; it holds addresses, not the tensors.

    Raises:
        ValueError: the reduction has fewer chunks than ``launch.split``; an empty part would wait for ever.
    """
    batch, channels, height, width = x.shape
    chunks, rows = -(-channels // 64) * len(grid.groups), patch_rows(launch, grid)
    if chunks < launch.split:
        raise ValueError(f"a reduction of {chunks} chunks cannot be split into {launch.split}")
    down, across = boxes(shape, height, width, grid)
    encoded = nvrtc.im2col_map(
        x.data_ptr(), _BFLOAT16 if x.dtype == torch.bfloat16 else _FLOAT16, (channels, width, height, batch), 2,
        (across.lower, down.lower), (across.upper, down.upper), (64, rows), (1, shape.stride_w, shape.stride_h, 1),
    )  # fmt: skip
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (weight, bias, residual, y)]
    params = _Params(
        (ctypes.c_uint8 * 128)(*encoded), *pointers, *x.shape, shape.outputs, *y.shape[2:], grid.height, grid.width,
        shape.stride_h, shape.stride_w, down.lower, across.lower, rows, chunks, len(grid.groups), len(grid.taps),
        int(relu),
    )  # fmt: skip
    _set_taps(params, grid, down.lower, across.lower)
    return params


def _set_taps(params: _Params, grid: Grid, lower_h: int, lower_w: int) -> None:
    """Fill the tables of groups and taps."""
    params.group_first[: len(grid.first)] = grid.first
    params.group_y[: len(grid.groups)] = [y - lower_h for y, _ in grid.groups]
    params.group_x[: len(grid.groups)] = [x - lower_w for _, x in grid.groups]
    params.tap[: len(grid.taps)] = grid.taps
    last = {first - 1 for first in grid.first}
    params.tap_row[: len(grid.rows)] = [2 * row + (tap in last) for tap, row in enumerate(grid.rows)]


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    y: Tensor,
    shape: Shape,
    relu: bool,
    launch: Launch,
) -> None:
    """Write ``y = activation(conv(x) + bias + residual)`` on the current stream; all tensors are channels last.

    Raises:
        ValueError: as ``parameters``.
        UserError: as ``image``.
    """
    grid = grid_of(shape, x.shape[2], x.shape[3], bool(launch.gather))
    given = parameters(x, weight, bias, residual, y, shape, relu, launch, grid)
    size = shared_bytes(launch, patch_rows(launch, grid))
    handle = nvrtc.function(image(launch, x.dtype), KERNEL, size)
    counts, stream = blocks(launch, shape, x.shape[0], grid), torch.cuda.current_stream(x.device).cuda_stream
    nvrtc.launch(handle, counts, launch.threads, size, stream, given, (1, launch.share, launch.split))
