"""The op ``st3::semi_structured_conv2d``: a convolution with 2:4 weights on sparse tensor cores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.cuda import semi_structured_sm80 as ampere
from runtime.cuda import semi_structured_sm90 as hopper
from runtime.cuda.semi_structured_grid import Shape, output_size
from runtime.errors import UserError

HOPPER, AMPERE = 90, 80  # whose kernel


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
    """``activation(conv(x) + bias + residual)`` with 2:4 weights: ``(B, N, H', W')``, channels last, dtype of ``x``.

    Args:
        x: ``(B, C, H, W)`` channels last, float16 or bfloat16; C is a multiple of 8.
        weight: as ``compile.cuda.formats.semi_structured`` packs it.
        bias: ``(N,)`` float32.
        residual: like the result, or ``None``.
        window: the values of ``Shape``.
        relu: whether negative results become zero.
        kernel: ``HOPPER`` or ``AMPERE``; another GPU than a Hopper runs Ampere's whatever is asked.
        launch: the values of ``Launch``, or of ``Launch80``; empty for the best guess of Ampere's.

    Raises:
        UserError: ``x`` is not on an NVIDIA GPU, or the kernel cannot be compiled there (as ``nvrtc.cubin``).
        ValueError: ``launch`` splits a Hopper's reduction into more parts than it has chunks of 64 inputs.
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
            hopper.run(x, weight, bias, residual, y, shape, relu, hopper.Launch(*launch))
        else:
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
