"""``st3::column_union``: groups of output channels times the input columns that any of them reads, on tensor cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def column_union_kernel(  # type: ignore[no-untyped-def]
    x, weights, channels, taps, starts, order, bias, residual, y, rows,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    GROUPS: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, GRAIN: tl.constexpr,
    POINTWISE: tl.constexpr, PERMUTED: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """A tile of pixels of a group of outputs; each step takes ``BLOCK`` columns of one tap."""
    program = tl.program_id(0)
    group = program % GROUPS  # the groups of a tile run side by side and find its pixels in the cache
    pixel = program // GROUPS * TILE + tl.arange(0, TILE)
    inside = pixel < rows
    row = pixel // OUT_WIDTH
    h = row % OUT_HEIGHT * STRIDE_H
    w = pixel % OUT_WIDTH * STRIDE_W
    first = ((row // OUT_HEIGHT * HEIGHT + h) * WIDTH + w) * CHANNELS
    if POINTWISE:
        first = pixel * CHANNELS
    in_block = tl.arange(0, BLOCK)
    in_group = tl.arange(0, GROUP)
    sums = tl.zeros((TILE, GROUP), tl.float32)
    for step in range(tl.load(starts + group), tl.load(starts + group + 1)):
        seen = inside
        at = first
        if not POINTWISE:
            down = tl.load(taps + 2 * step)
            right = tl.load(taps + 2 * step + 1)
            seen = seen & (h + down >= 0) & (h + down < HEIGHT) & (w + right >= 0) & (w + right < WIDTH)
            at = first + (down * WIDTH + right) * CHANNELS
        if GRAIN == 1:
            column = tl.load(channels + step * BLOCK + in_block)
            picked = tl.load(x + (at[:, None] + column[None, :]), mask=seen[:, None], other=0.0)
        elif GRAIN == BLOCK:
            column = tl.load(channels + step) * GRAIN + in_block
            picked = tl.load(x + (at[:, None] + column[None, :]), mask=seen[:, None], other=0.0)
        else:
            run = tl.load(channels + step * (BLOCK // GRAIN) + tl.arange(0, BLOCK // GRAIN)) * GRAIN
            column = run[:, None] + tl.arange(0, GRAIN)[None, :]
            cube = tl.load(x + (at[:, None, None] + column[None, :, :]), mask=seen[:, None, None], other=0.0)
            picked = tl.reshape(cube, (TILE, BLOCK))
        matrix = tl.load(weights + (step * BLOCK + in_block)[:, None] * GROUP + in_group[None, :])
        sums = tl.dot(picked, matrix, sums, input_precision="tf32x3")
    place = group * GROUP + in_group
    output = place
    if PERMUTED:
        output = tl.load(order + place)  # -1 where the last group has no channel
    real = (output >= 0) & (output < OUTPUTS)
    sums += tl.load(bias + output, mask=real, other=0.0)[None, :]
    to = pixel[:, None] * OUTPUTS + output[None, :]
    mask = inside[:, None] & real[None, :]
    if RESIDUAL:
        sums += tl.load(residual + to, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        sums = tl.where(sums < 0.0, 0.0, sums)  # a NaN stays one
    tl.store(y + to, sums.to(y.dtype.element_ty), mask=mask)


def run(
    kernel: Any,
    tensors: Sequence[Tensor | None],
    x_shape: Sequence[int],
    y: Tensor,
    cut: Sequence[int],
) -> None:
    """Launch ``kernel``; see ``column_union`` for ``tensors`` (its first eight arguments) and ``cut``."""
    x, weights, channels, taps, starts, order, bias, residual = tensors
    assert starts is not None
    tile, group, block, grain, stride_h, stride_w, pointwise, permuted, relu, warps, stages = cut
    batch, outputs, out_height, out_width = y.shape
    rows, groups = batch * out_height * out_width, len(starts) - 1
    kernel[(triton.cdiv(rows, tile) * groups,)](
        x, weights, channels, taps, starts, order, bias, y if residual is None else residual, y, rows,
        HEIGHT=x_shape[2], WIDTH=x_shape[3], CHANNELS=x_shape[1], OUTPUTS=outputs, OUT_HEIGHT=out_height,
        OUT_WIDTH=out_width, STRIDE_H=stride_h, STRIDE_W=stride_w, GROUPS=groups, TILE=tile, GROUP=group, BLOCK=block,
        GRAIN=grain, POINTWISE=bool(pointwise), PERMUTED=bool(permuted), RESIDUAL=residual is not None,
        RELU=bool(relu), num_warps=warps, num_stages=stages,
    )  # fmt: skip


@torch.library.triton_op("st3::column_union", mutates_args=())
def column_union(
    x: Tensor,
    weights: Tensor,
    channels: Tensor,
    taps: Tensor,
    starts: Tensor,
    order: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    shape: Sequence[int],
    cut: Sequence[int],
) -> Tensor:
    """``activation(conv(x) + bias + residual)`` of the shape ``(B, N, P, Q)``, channels last.

    A step is ``block`` columns of one tap. Sums are float32; float32 operands are split into three TF32 products,
    which keeps 21 bits of them.

    Args:
        x: channels last.
        weights: ``(steps, block, group)`` in the dtype of ``x``.
        channels: ``(steps, block / grain)`` int32, which runs of ``grain`` input channels a step takes.
        taps: ``(steps, 2)`` int32, rows down and columns to the right of the output's pixel times the stride.
        starts: ``(groups + 1,)`` int32, the first step of each group.
        order: ``(groups * group,)`` int32, the output channel of each place, -1 for none.
        bias: ``(N,)`` float32.
        residual: like the result, or ``None``.
        shape: of the result.
        cut: tile, group, block, grain, strides, pointwise, permuted, relu, warps, stages.
    """
    y = torch.empty(tuple(shape), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    tensors = (x, weights, channels, taps, starts, order, bias, residual)
    run(torch.library.wrap_triton(column_union_kernel), tensors, x.shape, y, cut)
    return y
