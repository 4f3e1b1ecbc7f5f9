"""The op ``st3::semi_structured_conv2d``: a convolution with 2:4 weights on sparse tensor cores, and its kernels."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.cuda import nvrtc
from runtime.errors import UserError

_MAX_TAPS = 64
BLOCK_BYTES = 64 * 64 + 128 * 4


class Shape(NamedTuple):
    """What the weight's buffers do not say of a convolution."""

    outputs: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    padding_h: int
    padding_w: int
    dilation_h: int
    dilation_w: int


class Launch(NamedTuple):
    """One way to launch the Hopper kernel.

    ``tiles`` of 64 channels per warpgroup, ``warpgroups``, ``pixels`` per block, stages of weights (0: each warp reads its own
    weights into registers; ``tiles`` 1) and of patches,
    blocks of a cluster that share patches, parts of the reduction, ``gather`` (a patch per tap), blocks per multiprocessor,
    ``deep`` (a step's tensor instructions are issued while the previous step's run).
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


class Grid(NamedTuple):
    """How output pixels are numbered, and the taps in groups: see the kernel's head."""

    height: int
    width: int
    groups: tuple[tuple[int, int], ...]  # offset (y, x) of the first pixel that a group's patch holds
    first: tuple[int, ...]  # where its taps begin
    taps: tuple[int, ...]
    rows: tuple[int, ...]  # by how many rows of the patch a tap is shifted


def grid_of(shape: Shape, height: int, width: int, gather: bool) -> Grid:
    out_h, out_w = output_size(shape, height, width)
    if gather:
        taps = tuple(range(shape.kernel_h * shape.kernel_w))
        groups = tuple(
            (
                tap // shape.kernel_w * shape.dilation_h - shape.padding_h,
                tap % shape.kernel_w * shape.dilation_w - shape.padding_w,
            )
            for tap in taps
        )
        return Grid(out_h, out_w, groups, (*taps, len(taps)), taps, (0,) * len(taps))
    along_y = _phases(shape.kernel_h, shape.stride_h, shape.padding_h, shape.dilation_h)
    along_x = _phases(shape.kernel_w, shape.stride_w, shape.padding_w, shape.dilation_w)
    grid_h = _pitch(along_y, shape.stride_h, out_h, height)
    grid_w = _pitch(along_x, shape.stride_w, out_w, width)
    groups, first, taps_, rows = [], [0], [], []
    for start_y, in_y in along_y.items():
        for start_x, in_x in along_x.items():
            groups.append((start_y, start_x))
            for r, y in in_y:
                for s, x in in_x:
                    taps_.append(r * shape.kernel_w + s)
                    rows.append(y * grid_w + x)
            first.append(len(taps_))
    return Grid(grid_h, grid_w, tuple(groups), tuple(first), tuple(taps_), tuple(rows))


def _phases(kernel: int, stride: int, padding: int, dilation: int) -> dict[int, list[tuple[int, int]]]:
    """Taps by the remainder of their offset: {smallest offset: [(tap, how many strides further), ...]}."""
    by_rest: dict[int, list[int]] = {}
    for tap in range(kernel):
        by_rest.setdefault((tap * dilation - padding) % stride, []).append(tap)
    return {
        taps[0] * dilation - padding: [(tap, (tap - taps[0]) * dilation // stride) for tap in taps]
        for taps in by_rest.values()
    }


def _pitch(phases: dict[int, list[tuple[int, int]]], stride: int, out: int, length: int) -> int:
    """The smallest pitch at which whatever a tap reads past a line's end is zero, there and in the line that follows."""

    def fits(pitch: int) -> bool:
        return all(
            (at - pitch) * stride + start < 0 and at * stride + start >= length
            for start, taps in phases.items()
            for at in range(pitch, out + taps[-1][1])
        )

    return next(pitch for pitch in range(out, out + length + 2**16) if fits(pitch))


def output_size(shape: Shape, height: int, width: int) -> tuple[int, int]:
    def length(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
        return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1

    return (
        length(height, shape.kernel_h, shape.stride_h, shape.padding_h, shape.dilation_h),
        length(width, shape.kernel_w, shape.stride_w, shape.padding_w, shape.dilation_w),
    )


class _Params(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_uint8 * 128),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "residual", "y")),
        *(
            (name, ctypes.c_int)
            for name in (
                "batch",
                "channels",
                "height",
                "width",
                "outputs",
                "out_height",
                "out_width",
                "grid_height",
                "grid_width",
                "stride_h",
                "stride_w",
                "lower_h",
                "lower_w",
                "rows",
                "chunks",
                "groups",
                "taps",
                "relu",
            )
        ),
        ("group_first", ctypes.c_short * (_MAX_TAPS + 1)),
        *((name, ctypes.c_short * _MAX_TAPS) for name in ("group_y", "group_x", "tap", "tap_row")),
        ("pad", ctypes.c_uint8 * 64),  # the compiler's struct is a multiple of 64 bytes
    )


def prelude(pixels: int, dtype: str) -> str:
    """``wgmma_sp`` for a tile of ``pixels`` columns: inline assembly takes its operands one by one."""
    count = pixels // 2
    accumulators = ", ".join(f"%{i}" for i in range(count))
    operands = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    return f"""template <int SELECTOR>
__device__ __forceinline__ void wgmma_sp(float (&d)[{count}], unsigned long long a, unsigned long long b, unsigned meta, int more) {{
  asm volatile(
      "{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{count + 4}, 0;\\n"
      "wgmma.mma_async.sp.sync.aligned.m64n{pixels}k32.f32.{dtype}.{dtype} {{{accumulators}}}, "
      "%{count}, %{count + 1}, %{count + 2}, %{count + 3}, add, 1, 1, 0, 0;\\n}}"
      : {operands}
      : "l"(a), "l"(b), "r"(meta), "n"(SELECTOR), "r"(more));
}}
template <int SELECTOR>
__device__ __forceinline__ void wgmma_sp_direct(float (&d)[{count}], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                                unsigned long long b, unsigned meta, int more) {{
  asm volatile(
      "{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{count + 7}, 0;\\n"
      "wgmma.mma_async.sp.sync.aligned.m64n{pixels}k32.f32.{dtype}.{dtype} {{{accumulators}}}, "
      "{{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}, %{count + 4}, %{count + 5}, %{count + 6}, add, 1, 1, 0;\\n}}"
      : {operands}
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(meta), "n"(SELECTOR), "r"(more));
}}
"""


def defines(config: Launch, dtype: torch.dtype, **more: int) -> dict[str, int]:
    return {
        "MT": config.tiles, "WGM": config.warpgroups, "TILE_N": config.pixels, "A_STAGES": config.weight_stages,
        "B_STAGES": config.patch_stages, "SHARE": config.share, "SPLIT_K": config.split, "MIN_BLOCKS": config.resident,
        "DEEP": config.deep, "BF16": int(dtype == torch.bfloat16), "ABLATE": 0, **more,
    }  # fmt: skip


def image(config: Launch, dtype: torch.dtype, **more: int) -> bytes:
    name = "bf16" if dtype == torch.bfloat16 else "f16"
    headers = {"prelude.h": prelude(config.pixels, name)}
    return nvrtc.cubin(nvrtc.source("semi_structured_sm90.cu"), "sm_90a", headers, defines(config, dtype, **more))


def patch_rows(config: Launch, grid: Grid) -> int:
    return -(-(config.pixels + max(grid.rows)) // 8) * 8


def shared_bytes(config: Launch, rows: int) -> int:
    channels = 64 * config.tiles * config.warpgroups
    stages = config.patch_stages * rows * 128 + config.weight_stages * config.tiles * config.warpgroups * BLOCK_BYTES
    staged = config.pixels * ((channels + 4) * 4 if config.split > 1 else (channels + 8) * 2)
    return 256 + config.pixels * 4 + 1024 + max(stages, staged)


def threads(config: Launch) -> int:
    """Consumers, and the warps that copy (see GIVE in the kernel)."""
    if config.weight_stages:
        return 128 * config.warpgroups + 64
    give = (config.warpgroups == 4 or (config.warpgroups == 2 and config.pixels > 160)) and config.resident == 1
    return 128 * config.warpgroups + (128 if give else 32)


def _box(size: int, stride: int, starts: list[int], length: int) -> tuple[int, int]:
    """Corners (lower, upper) of the bounding box of ``length`` positions, ``stride`` apart from the smallest start on."""
    lower = min(starts)
    return lower, lower + (length - 1) * stride - (size - 1)


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    shape: Shape,
    relu: bool,
    config: Launch,
    out: Tensor | None = None,
    early: bool = True,
    **more: int,
) -> Tensor:
    batch, channels, height, width = x.shape
    out_h, out_w = output_size(shape, height, width)
    y = (
        torch.empty(
            (batch, shape.outputs, out_h, out_w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        if out is None
        else out
    )
    grid = grid_of(shape, height, width, bool(config.gather))
    rows = patch_rows(config, grid)
    chunks = -(-channels // 64) * len(grid.groups)
    if chunks < config.split:
        raise ValueError(
            f"a reduction of {chunks} chunks cannot be split into {config.split}"
        )  # an empty part would wait for ever
    lower_h, upper_h = _box(height, shape.stride_h, [y for y, _ in grid.groups], grid.height)
    lower_w, upper_w = _box(width, shape.stride_w, [x for _, x in grid.groups], grid.width)
    image = nvrtc.im2col_map(
        x.data_ptr(), 9 if x.dtype == torch.bfloat16 else 6, (channels, width, height, batch), 2,
        (lower_w, lower_h), (upper_w, upper_h), (64, rows), (1, shape.stride_w, shape.stride_h, 1),
    )  # fmt: skip
    params = _Params(
        (ctypes.c_uint8 * 128)(*image),
        weight.data_ptr(), bias.data_ptr(), residual.data_ptr() if residual is not None else None, y.data_ptr(),
        batch, channels, height, width, shape.outputs, out_h, out_w, grid.height, grid.width, shape.stride_h, shape.stride_w,
        lower_h, lower_w, rows, chunks, len(grid.groups), len(grid.taps), int(relu),
    )  # fmt: skip
    params.group_first[: len(grid.first)] = grid.first
    params.group_y[: len(grid.groups)] = [y - lower_h for y, _ in grid.groups]
    params.group_x[: len(grid.groups)] = [x - lower_w for _, x in grid.groups]
    params.tap[: len(grid.taps)] = grid.taps
    last = {first - 1 for first in grid.first}
    params.tap_row[: len(grid.rows)] = [2 * row + (tap in last) for tap, row in enumerate(grid.rows)]
    blocks = (
        -(-(batch * grid.height * grid.width) // config.pixels),
        -(-(-(-shape.outputs // (64 * config.tiles * config.warpgroups))) // config.share) * config.share,
        config.split,
    )
    size = shared_bytes(config, rows)
    handle = nvrtc.function(_image(config, x.dtype, tuple(sorted(more.items()))), "conv", size)
    nvrtc.launch(
        handle,
        blocks,
        threads(config),
        size,
        torch.cuda.current_stream().cuda_stream,
        params,
        (1, config.share, config.split),
        early,
    )
    return y


@functools.cache
def _image(config: Launch, dtype: torch.dtype, more: tuple[tuple[str, int], ...]) -> bytes:
    return image(config, dtype, **dict(more))


HOPPER, AMPERE = 90, 80  # whose kernel


def mappable(shape: Shape, height: int, width: int, grid: Grid) -> bool:
    """Whether a tensor map can describe the patches: corners in 8 bits, steps of at most 8 (cuTensorMapEncodeIm2col)."""
    down = _box(height, shape.stride_h, [y for y, _ in grid.groups], grid.height)
    across = _box(width, shape.stride_w, [x for _, x in grid.groups], grid.width)
    return max(map(abs, (*down, *across))) < 128 and max(shape.stride_h, shape.stride_w) <= 8


@torch.library.custom_op("st3::semi_structured_conv2d", mutates_args=())
def semi_structured_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    window: Sequence[int],
    relu: bool,
    kernel: int,
    launch: Sequence[int],
) -> Tensor:
    """``activation(conv(x) + bias + residual)`` with 2:4 weights, channels last.

    Args:
        x: ``(B, C, H, W)`` channels last, float16 or bfloat16; C is a multiple of 8.
        weight: as ``compile.cuda.formats.semi_structured`` packs it.
        bias: ``(N,)`` float32.
        residual: like the result, or ``None``.
        window: the values of ``Shape``.
        relu: whether negative results become zero.
        kernel: ``HOPPER`` or ``AMPERE``; another GPU than a Hopper runs Ampere's whatever is asked.
        launch: the values of ``Launch``, or of ``Launch80``; empty for the best guess of Ampere's.
    """
    if not x.is_cuda:
        raise UserError(f"st3::semi_structured_conv2d runs on an NVIDIA GPU, but its input is on {x.device}; move it")
    shape, last = Shape(*window), torch.channels_last
    x = x.contiguous(memory_format=last)
    residual = None if residual is None else residual.contiguous(memory_format=last)
    y = _result(x, shape)
    assert x.data_ptr() % 16 == y.data_ptr() % 16 == 0, "16-byte loads need aligned tensors"
    with torch.cuda.device(x.device):
        if kernel == HOPPER and torch.cuda.get_device_capability(x.device) == (9, 0):
            run(x, weight, bias, residual, shape, relu, Launch(*launch), y)
        else:
            from runtime.cuda import semi_structured_sm80 as ampere

            known = ampere.Launch80(*launch) if kernel == AMPERE and launch else ampere.guesses(x.shape, shape)[0]
            ampere.run(x, weight, bias, residual, y, shape, relu, known)
    return y


@semi_structured_conv2d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    window: Sequence[int],
    relu: bool,
    kernel: int,
    launch: Sequence[int],
) -> Tensor:
    del weight, bias, residual, relu, kernel, launch
    return _result(x, Shape(*window))


def _result(x: Tensor, shape: Shape) -> Tensor:
    height, width = output_size(shape, x.shape[2], x.shape[3])
    return x.new_empty((x.shape[0], height, width, shape.outputs)).permute(0, 3, 1, 2)
