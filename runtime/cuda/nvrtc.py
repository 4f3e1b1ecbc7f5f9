"""Compiles CUDA C++ at run time with the NVRTC that torch ships, keeps the result on disk, and launches it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def compile_cubin(source: str, arch: str, options: Sequence[str] = ()) -> bytes:
    """Machine code of ``source`` for ``arch`` (``sm_90``), from the cache ``~/.cache/st3`` where it was built before.

    Raises:
        UserError: no NVRTC can be found, or it refuses the source; the message holds its log.
    """
    key = hashlib.sha256("\0".join((source, arch, *options, str(_version()))).encode()).hexdigest()
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "st3" / "cubin" / f"{key}.cubin"
    if path.is_file():
        return path.read_bytes()
    cubin = _compile(source, arch, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(cubin)
    Path(file.name).replace(path)
    return cubin


class Kernel:
    """A kernel of a cubin on the device that was current when it was loaded."""

    def __init__(self, cubin: bytes, name: str, shared: int) -> None:
        driver = _driver()
        self._cubin = cubin
        module = ctypes.c_void_p()
        self.function = ctypes.c_void_p()
        _check(driver.cuModuleLoadData(ctypes.byref(module), cubin), "load a kernel")
        _check(driver.cuModuleGetFunction(ctypes.byref(self.function), module, name.encode()), f"find {name}")
        if shared > 48 * 1024:
            _check(
                driver.cuFuncSetAttribute(self.function, _MAX_DYNAMIC_SHARED, shared),
                f"take {shared} bytes of shared memory a block",
            )


def launch(kernel: Kernel, grid: Sequence[int], block: Sequence[int], shared: int, args: Sequence[int | None]) -> None:
    """Put ``kernel`` on the current stream; ``args`` are device pointers (``None``: a null pointer)."""
    import torch

    values = [ctypes.c_void_p(pointer) for pointer in args]
    pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    status = _driver().cuLaunchKernel(kernel.function, *grid, *block, shared, stream, pointers, None)
    _check(status, f"launch a grid of {tuple(grid)}, {tuple(block)} threads a block, {shared} bytes shared")


def _check(status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"CUDA cannot {what}: {(text.value or b'unknown error').decode()} ({status})")


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


@functools.cache
def _nvrtc() -> Any:
    import torch  # loads the library where torch was built with it

    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    for folder in Path(torch.__file__).parent.parent.glob("nvidia/*/lib"):
        for name in _LIBRARIES:
            if (folder / name).is_file():
                return ctypes.CDLL(str(folder / name))
    raise UserError("there is no NVRTC to compile CUDA kernels with; install a torch built with CUDA, it ships one")


@functools.cache
def _version() -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def _compile(source: str, arch: str, options: Sequence[str]) -> bytes:
    library = _nvrtc()
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"st3.cu", 0, None, None)
    try:
        texts = [f"--gpu-architecture={arch}", "--std=c++17", *options]
        given = (ctypes.c_char_p * len(texts))(*[text.encode() for text in texts])
        failed = library.nvrtcCompileProgram(program, len(texts), given)
        if failed:
            raise UserError(f"NVRTC refuses a CUDA kernel for {arch}: {_read(program, 'ProgramLog').decode().strip()}")
        return _read(program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(program: ctypes.c_void_p, what: str) -> bytes:
    library, size = _nvrtc(), ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, text)
    return text.raw if what == "CUBIN" else text.value
