"""Compiles ``csr.cu`` for this machine's CPU, one thread for each of the GPU's, and runs it: see ``emulated.h``."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from torch import Tensor

from compile.cuda.formats.csr import CsrConv
from runtime.cuda.csr import grid, shared_bytes, source

HEADER = Path(__file__).parent / "emulated.h"
_CALL = """
extern "C" void call(const void* x, const void* entries, const int* starts, const int* packs, const float* bias,
                     const void* residual, void* y) {
  run(st3_csr, GRID_X, GRID_Y, THREADS, (const element*)x, (const Entry*)entries, starts, packs, bias,
      (const element*)residual, (element*)y);
}
"""


def run(module: CsrConv, x: Tensor, residual: Tensor | None, y: Tensor, folder: Path) -> None:
    """Write ``y`` as the GPU would; shared memory starts as NaN, and an index out of an array's bounds is trapped."""
    sizes = module.geometry
    x_blocks, y_blocks, _ = grid(sizes)
    kernel = source(sizes).replace("extern __shared__ unsigned int shared[];", "")
    defines = {"SHARED_BYTES": shared_bytes(sizes), "GRID_X": x_blocks, "GRID_Y": y_blocks}
    text = "".join(f"#define {name} {value}\n" for name, value in defines.items()) + HEADER.read_text() + kernel + _CALL
    path, library = folder / "csr.cpp", folder / "csr.so"
    path.write_text(text)
    flags = ["-std=c++20", "-O1", "-fsanitize=bounds", "-fsanitize-undefined-trap-on-error", "-w"]
    subprocess.run(["g++", *flags, "-shared", "-fPIC", "-pthread", path, "-o", library], check=True)
    tensors = (x, module.entries, module.starts, module.packs, module.bias, residual, y)
    call = ctypes.CDLL(str(library)).call
    call.restype = None
    call(*[None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors])
