"""Runs ``semi_structured_sm80.cu`` on this machine's CPU, one thread for each of the GPU's: see ``emulated_mma.h``."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from emulator import compile_library
from torch import Tensor

from runtime.cuda import nvrtc
from runtime.cuda.semi_structured_grid import Shape
from runtime.cuda.semi_structured_sm80 import KERNEL, Launch80, blocks, defines, parameters

_HEADERS = [Path(__file__).parent / name for name in ("emulated.h", "emulated_mma.h")]
_DECLARED = "extern __shared__ __align__(128) u8 shared[];"


def build(launch: Launch80, dtype: torch.dtype, folder: Path) -> ctypes.CDLL:
    """The kernel as a shared library."""
    kernel = nvrtc.source("semi_structured_sm80.cu")
    assert _DECLARED in kernel
    macros = defines(launch, dtype) | {"THREADS": launch.threads, "SHARED_BYTES": launch.shared_bytes}
    text = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    text += "".join(header.read_text() for header in _HEADERS) + "#undef THREADS\n"
    text += kernel.replace(_DECLARED, "u8* shared = (u8*)::shared;")
    text += 'extern "C" void call(const Params* p, int x, int y) { run(' + KERNEL + ", x, y, THREADS, *p); }\n"
    return compile_library(text, folder)


def run(
    library: ctypes.CDLL, launch: Launch80, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, y: Tensor,
    shape: Shape, relu: bool,
) -> None:  # fmt: skip
    """Write ``y`` as the GPU would."""
    given = parameters(x, weight, bias, residual, y, shape, relu)
    library.call.restype = None
    library.call(ctypes.byref(given), *blocks(launch, shape, x.shape[0], x.shape[2], x.shape[3])[:2])
