"""CUDA C++ to a cubin with the NVRTC that torch ships, kept on disk, and its launch through the CUDA driver.

Plain ctypes: no header and no package but torch is needed where it runs. A cubin may also come ready made (an artifact
ships those that it needs); then NVRTC is not touched.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError

_KERNELS = Path(__file__).parent / "kernels"
_NVRTC_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_SWIZZLE_128 = 3  # CU_TENSOR_MAP_SWIZZLE_128B
_PROMOTE_256 = 3  # CU_TENSOR_MAP_L2_PROMOTION_L2_256B
_PROGRAMMATIC = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: an id, then a union of 64 bytes."""

    _fields_ = (("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16))


class _LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


def source(name: str) -> str:
    """Text of ``runtime/cuda/kernels/NAME``."""
    return (_KERNELS / name).read_text()


def cache_folder() -> Path:
    """Where cubins are kept: ``$ST3_CACHE`` or ``~/.cache/st3``, in it ``cubin``."""
    return Path(os.environ.get("ST3_CACHE", Path.home() / ".cache" / "st3")) / "cubin"


def cubin(text: str, arch: str, headers: Mapping[str, str] | None = None, defines: Mapping[str, int] | None = None) -> bytes:
    """The cubin of CUDA C++ ``text`` for ``arch`` (``sm_90a``), from the cache or compiled now.

    Raises:
        UserError: NVRTC is not there, or it refuses the source; its log is in the message.
    """
    options = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device", *(f"-D{k}={v}" for k, v in sorted((defines or {}).items()))]
    key = hashlib.sha256("\0".join([text, *options, *(f"{k}\0{v}" for k, v in sorted((headers or {}).items()))]).encode()).hexdigest()
    kept = cache_folder() / f"{key}.cubin"
    if kept.is_file():
        return kept.read_bytes()
    made = _compile(text, options, headers or {})
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
        file.write(made)
    Path(file.name).replace(kept)
    return made


def function(image: bytes, name: str, shared_bytes: int) -> int:
    """Handle of a kernel of ``image`` in the current CUDA context, allowed ``shared_bytes`` of dynamic shared memory."""
    import torch

    return _function(image, name, shared_bytes, torch.cuda.current_device())


def launch(
    handle: int, grid: Sequence[int], threads: int, shared_bytes: int, stream: int, parameters: ctypes.Structure, cluster: Sequence[int] = (1, 1, 1), early: bool = True
) -> None:
    """Launch on a stream (safe while it is captured); ``parameters`` is the kernel's only parameter, a struct.

    The launch may begin before the previous kernel of the stream has ended: the kernel waits (griddepcontrol) itself.
    """
    attributes = (_Attribute * 2)()
    attributes[0].id = _PROGRAMMATIC
    attributes[0].value[0] = int(early)
    attributes[1].id = _CLUSTER_DIMENSION
    attributes[1].value[0:3] = list(cluster)
    count = 1 if tuple(cluster) == (1, 1, 1) else 2
    config = _LaunchConfig(tuple(grid), (threads, 1, 1), shared_bytes, stream, attributes, count)
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(parameters))
    _check(_driver().cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(handle), arguments, None), "cuLaunchKernelEx")


def im2col_map(
    address: int, kind: int, sizes: Sequence[int], item: int, lower: Sequence[int], upper: Sequence[int], box: Sequence[int], steps: Sequence[int]
) -> bytes:
    """A CUtensorMap (128 bytes) of a dense tensor, innermost size first, in im2col mode: 128-byte swizzle, zeros outside.

    ``kind`` is a CUtensorMapDataType, ``lower`` and ``upper`` the corners of the bounding box, ``box`` channels and pixels.
    """
    rank = len(sizes)
    raw = ctypes.create_string_buffer(128 + 64)
    at = (ctypes.addressof(raw) + 63) // 64 * 64  # it asks for 64 bytes' alignment
    strides, length = [], item
    for size in sizes[:-1]:
        length *= size
        strides.append(length)
    _check(
        _driver().cuTensorMapEncodeIm2col(
            ctypes.c_void_p(at), kind, rank, ctypes.c_void_p(address), (ctypes.c_uint64 * rank)(*sizes),
            (ctypes.c_uint64 * (rank - 1))(*strides), (ctypes.c_int * (rank - 2))(*lower), (ctypes.c_int * (rank - 2))(*upper),
            ctypes.c_uint32(box[0]), ctypes.c_uint32(box[1]), (ctypes.c_uint32 * rank)(*steps), 0, _SWIZZLE_128, _PROMOTE_256, 0,
        ),
        "cuTensorMapEncodeIm2col",
    )  # fmt: skip
    return ctypes.string_at(at, 128)


@functools.lru_cache(maxsize=None)
def _function(image: bytes, name: str, shared_bytes: int, device: int) -> int:
    del device  # a module belongs to a context, and torch has one per device
    driver, module, handle = _driver(), ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver.cuModuleLoadData(ctypes.byref(module), image), "cuModuleLoadData")
    _check(driver.cuModuleGetFunction(ctypes.byref(handle), module, name.encode()), "cuModuleGetFunction")
    _check(driver.cuFuncSetAttribute(handle, _MAX_DYNAMIC_SHARED, shared_bytes), "cuFuncSetAttribute")
    assert handle.value is not None
    return handle.value


def _compile(text: str, options: Sequence[str], headers: Mapping[str, str]) -> bytes:
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    bodies = (ctypes.c_char_p * len(headers))(*(body.encode() for body in headers.values()))
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", len(headers), bodies, names)
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    try:
        if failed:
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise UserError(f"NVRTC refuses a kernel ({' '.join(options)}):\n{log.value.decode()}")
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        made = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, made)
        return made.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@functools.lru_cache(maxsize=None)
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


@functools.lru_cache(maxsize=None)
def _nvrtc() -> Any:
    """The library, from the wheels that torch depends on or from a CUDA toolkit."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    folders = [folder for root in roots for folder in (*root.glob("cu*/lib"), root / "cuda_nvrtc" / "lib")]
    folders += [Path("/usr/local/cuda/lib64")]
    for name in (*(str(folder / name) for folder in folders for name in _NVRTC_NAMES), *_NVRTC_NAMES):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise UserError("no NVRTC found (libnvrtc.so.13 or .12): install torch's CUDA build, or nvidia-cuda-nvrtc")


def _check(status: int, call: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{call} failed: {(text.value or b'?').decode()} ({status})")
