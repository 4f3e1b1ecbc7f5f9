"""ST-3's effective weight on an NVIDIA GPU in one Triton kernel: two reads and one write of the weight in all.

The plain formula takes some fifteen kernels a layer, whose launches alone cost more than their arithmetic.
"""

# mypy: disable-error-code="import-untyped,untyped-decorator,no-untyped-def"
# Triton ships no types, and the parameters of a kernel are of Triton's own.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048


def suits(weight: Tensor) -> bool:
    """Whether the kernel takes this weight: float32, each output channel's weights one run of memory."""
    return weight.dtype == torch.float32 and (
        weight.is_contiguous() or (weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last))
    )


def scaled_soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """``s_c (w - sign(w) T)`` above the threshold, zero elsewhere; see ``st3.formulas``.

    Args:
        weight: ``(N, ...)`` that ``suits``.
        threshold: scalar on the same device.
    """
    out = torch.empty_like(weight)
    rows = len(weight)
    length = weight.numel() // rows
    columns = min(triton.next_power_of_2(length), _TILE)
    height = _TILE // columns
    _kernel[(triton.cdiv(rows, height),)](weight, threshold, out, rows, length, height, columns, num_warps=4)
    return out


@triton.jit
def _kernel(weight, threshold, out, rows, length, HEIGHT: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
    limit = tl.load(threshold)
    total = tl.zeros((HEIGHT, 1), tl.float32)
    kept = tl.zeros((HEIGHT, 1), tl.float32)
    for first in range(0, length, COLUMNS):
        column = first + tl.arange(0, COLUMNS)[None, :]
        inside = (row < rows) & (column < length)
        magnitude = tl.abs(tl.load(weight + row * length + column, mask=inside, other=0.0))
        total += tl.sum(magnitude, 1, keep_dims=True)
        kept += tl.sum(tl.where(magnitude > limit, magnitude, 0.0), 1, keep_dims=True)
    ratio = (kept / length + 1e-6) / (total / length + 1e-6)
    scale = tl.where(limit > 0, 1.01 / (ratio + 0.01), 1.0)
    for first in range(0, length, COLUMNS):
        column = first + tl.arange(0, COLUMNS)[None, :]
        inside = (row < rows) & (column < length)
        value = tl.load(weight + row * length + column, mask=inside, other=0.0)
        soft = value - tl.minimum(tl.maximum(value, -limit), limit)
        tl.store(out + row * length + column, scale * soft, mask=inside)
