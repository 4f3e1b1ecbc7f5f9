"""How ``kernels/semi_structured_sm80.cu`` is compiled and launched: 2:4 convolutions on Ampere, Ada and later."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.cuda import nvrtc
from runtime.cuda.semi_structured_grid import BLOCK_BYTES, Shape, output_size

KERNEL = "conv_sparse24"
_REGISTERS = 65536  # of a multiprocessor
_MULTIPROCESSORS = 108  # of an A100; what a guess needs of it is how small a launch is
_OTHER_REGISTERS = 72  # of a thread, beside its sums


class Launch80(NamedTuple):
    """One way to launch the kernel.

    ``warps_m`` times ``warps_n`` warps, each of ``groups`` times 16 output channels and ``eights`` times 8 pixels;
    ``stages`` steps in shared memory.
    """

    warps_m: int
    warps_n: int
    groups: int
    eights: int
    stages: int

    @property
    def channels(self) -> int:
        """Output channels of a block."""
        return 16 * self.groups * self.warps_m

    @property
    def pixels(self) -> int:
        """Output pixels of a block."""
        return 8 * self.eights * self.warps_n

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: the stages, or the sums where they take more."""
        stage = self.channels // 64 * BLOCK_BYTES + self.pixels * 128
        return self.pixels * 8 + max(self.stages * stage, self.pixels * (self.channels + 4) * 4)


LAUNCHES = (
    Launch80(2, 2, 4, 8, 3),  # 128 channels x 128 pixels
    Launch80(2, 2, 4, 4, 4),  # 128 x 64
    Launch80(1, 4, 4, 4, 3),  # 64 x 128
    Launch80(2, 2, 2, 4, 4),  # 64 x 64
    Launch80(2, 2, 2, 2, 5),  # 64 x 32
    Launch80(4, 2, 4, 4, 3),  # 256 x 64
)
"""All that is offered; each fits the 99 KiB of shared memory that a block may have on sm_86, sm_89 and sm_120."""


def guesses(x_shape: Sequence[int], shape: Shape) -> list[Launch80]:
    """``LAUNCHES``, the one that should be fastest first, for an input of ``x_shape``."""

    def cost(launch: Launch80) -> float:
        across, down, _ = blocks(launch, shape, x_shape[0], x_shape[2], x_shape[3])
        resident = defines(launch, torch.float16)["MIN_BLOCKS"]
        # tensor cores need a cycle for 64 x 64 weights and 2 pixels, shared memory for the operands of each warp
        warps = launch.warps_m * launch.warps_n
        step = max(launch.channels * launch.pixels / 64, warps * (launch.groups + launch.eights) * 8)
        waves = -(-across * down // (_MULTIPROCESSORS * resident)) * resident
        return waves * (step + launch.channels / 64 * 36 + launch.pixels)

    return sorted(LAUNCHES, key=cost)


class _Params(ctypes.Structure):
    """``Params`` of the kernel."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "residual", "y")),
        *((name, ctypes.c_int) for name in (
            "batch", "channels", "height", "width", "outputs", "out_height", "out_width", "kernel_h", "kernel_w",
            "stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w", "relu",
        )),
    )  # fmt: skip


def defines(launch: Launch80, dtype: torch.dtype) -> dict[str, int]:
    """The kernel's macros."""
    resident = _REGISTERS // (launch.threads * (launch.groups * launch.eights * 4 + _OTHER_REGISTERS))
    return {
        "WARPS_M": launch.warps_m, "WARPS_N": launch.warps_n, "MI": launch.groups, "NI": launch.eights,
        "STAGES": launch.stages, "MIN_BLOCKS": max(1, min(resident, 4)), "BF16": int(dtype == torch.bfloat16),
    }  # fmt: skip


def blocks(launch: Launch80, shape: Shape, batch: int, height: int, width: int) -> tuple[int, int, int]:
    """The grid: blocks of pixels, blocks of output channels, and 1."""
    out_height, out_width = output_size(shape, height, width)
    return -(-(batch * out_height * out_width) // launch.pixels), -(-shape.outputs // launch.channels), 1


def parameters(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, y: Tensor, shape: Shape, relu: bool
) -> ctypes.Structure:
    """What the kernel is given; it holds addresses, not the tensors."""
    tensors = [None if tensor is None else tensor.data_ptr() for tensor in (x, weight, bias, residual, y)]
    return _Params(*tensors, *x.shape, shape.outputs, *y.shape[2:], *shape[1:], int(relu))


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    y: Tensor,
    shape: Shape,
    relu: bool,
    launch: Launch80,
) -> None:
    """Write ``y = activation(conv(x) + bias + residual)`` on the current stream; all tensors are channels last."""
    major, minor = torch.cuda.get_device_capability(x.device)
    handle = nvrtc.function(image(launch, x.dtype, f"sm_{major}{minor}"), KERNEL, launch.shared_bytes)
    grid = blocks(launch, shape, x.shape[0], x.shape[2], x.shape[3])
    stream = torch.cuda.current_stream(x.device).cuda_stream
    given = parameters(x, weight, bias, residual, y, shape, relu)
    nvrtc.launch(handle, grid, launch.threads, launch.shared_bytes, stream, given, early=False)


@functools.cache
def image(launch: Launch80, dtype: torch.dtype, arch: str) -> bytes:
    """The kernel's cubin for an architecture."""
    return nvrtc.cubin(nvrtc.source("semi_structured_sm80.cu"), arch, {}, defines(launch, dtype))
