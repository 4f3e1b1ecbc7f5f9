"""One pass over a layer's result: bias, residual and ReLU, in place (Triton)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048


# without annotations: older Triton looks the names in them up as globals of the kernel
@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    y, bias, residual, total, CHANNELS: tl.constexpr, ADDS: tl.constexpr, RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < total
    value = tl.load(y + index, mask=inside).to(tl.float32)
    value += tl.load(bias + index % CHANNELS, mask=inside).to(tl.float32)
    if ADDS:
        value += tl.load(residual + index, mask=inside).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(y + index, value.to(y.dtype.element_ty), mask=inside)


def add_in_place(y: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> None:
    """``y = activation(y + bias + residual)`` of ``(B, N, P, Q)`` in channels-last memory."""
    total = y.numel()
    grid = (triton.cdiv(total, _BLOCK),)
    _kernel[grid](y, bias, y if residual is None else residual, total, y.shape[1], residual is not None, relu, _BLOCK)
