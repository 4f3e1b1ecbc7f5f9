"""Compiles ``csr.cu`` for this machine's CPU, one thread for each of the GPU's, and runs it: see ``emulated.h``."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
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

_COMPILE = [
    "g++", "-std=c++20", "-O1", "-fsanitize=bounds", "-fsanitize-undefined-trap-on-error", "-w", "-fPIC", "-pthread",
]  # fmt: skip


def compile_library(text: str, folder: Path) -> ctypes.CDLL:
    """Shared memory starts as NaN, an index out of an array's bounds traps."""
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(text)
    headers = Path(_precompiled().name) / "headers.h"
    subprocess.run([*_COMPILE, "-shared", "-include", headers, source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


@functools.cache
def _precompiled() -> tempfile.TemporaryDirectory[str]:
    """The C++ library's headers, which take g++ longer than a kernel, compiled once."""
    folder = tempfile.TemporaryDirectory(prefix="emulator-")
    header = Path(folder.name) / "headers.h"
    lines = HEADER.read_text().splitlines(keepends=True)
    header.write_text("".join(line for line in lines if line.startswith("#include <")))
    subprocess.run([*_COMPILE, "-x", "c++-header", header, "-o", f"{header}.gch"], check=True)
    return folder


def run(module: CsrConv, x: Tensor, residual: Tensor | None, y: Tensor, folder: Path) -> None:
    """Write ``y`` as the GPU would; shared memory starts as NaN, and an index out of an array's bounds is trapped."""
    sizes = module.geometry
    x_blocks, y_blocks, _ = grid(sizes)
    kernel = source(sizes).replace("extern __shared__ unsigned int shared[];", "")
    defines = {"SHARED_BYTES": shared_bytes(sizes), "GRID_X": x_blocks, "GRID_Y": y_blocks}
    text = "".join(f"#define {name} {value}\n" for name, value in defines.items()) + HEADER.read_text() + kernel + _CALL
    library = compile_library(text, folder)
    tensors = (x, module.entries, module.starts, module.packs, module.bias, residual, y)
    call = library.call
    call.restype = None
    call(*[None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors])
