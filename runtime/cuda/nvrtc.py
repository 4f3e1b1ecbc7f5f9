"""CUDA C++ to a cubin with the NVRTC that torch ships, kept on disk, and its launch through the CUDA driver.

Plain ctypes: no header and no package but torch is needed where it runs. A cubin may also come ready made (an artifact
ships those that it needs, see ``ship``); then NVRTC is not touched.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import UserError

SHIPPED = "cubin"
"""Folder of an artifact's payload that holds the cubins its ops need, so that nothing is compiled where it runs."""

_KERNELS = Path(__file__).parent / "kernels"
_NVRTC_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_SWIZZLE_128 = 3  # CU_TENSOR_MAP_SWIZZLE_128B
_PROMOTE_256 = 3  # CU_TENSOR_MAP_L2_PROMOTION_L2_256B
_PROGRAMMATIC = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION

_shipped: list[Path] = []  # folders of cubins that came with artifacts
_keys: dict[bytes, str] = {}  # of every image that this process was given
_record: dict[str, bytes] | None = None


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
    return (_KERNELS / name).read_text(encoding="utf-8")


def cache_folder() -> Path:
    """Where cubins are kept: ``$ST3_CACHE``, or ``st3`` in the user's cache; in it ``cubin``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ST3_CACHE") or Path(home) / "st3") / "cubin"


def cubin(
    text: str, arch: str, headers: Mapping[str, str] | None = None, defines: Mapping[str, int] | None = None
) -> bytes:
    """The cubin of CUDA C++ ``text`` for ``arch`` (``sm_90a``): shipped, from the cache, or compiled now.

    Raises:
        UserError: NVRTC is not there, or it refuses the source; its log is in the message.
    """
    parts = [text, arch, *(f"{name}={value}" for name, value in sorted((defines or {}).items()))]
    parts += [f"{name}\0{body}" for name, body in sorted((headers or {}).items())]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    path = next((folder / f"{key}.cubin" for folder in _shipped if (folder / f"{key}.cubin").is_file()), None)
    path = path or cache_folder() / "{}-{}.{}.cubin".format(key, *version())
    if not path.is_file():
        _write(path, build(text, arch, headers, defines)[0])
    made = path.read_bytes()
    _keys[made] = key
    return made


def build(
    text: str,
    arch: str,
    headers: Mapping[str, str] | None = None,
    defines: Mapping[str, int] | None = None,
    options: Sequence[str] = (),
) -> tuple[bytes, str]:
    """Compile now: the cubin and the compiler's log (with ``--ptxas-options=-v``: registers, spills).

    Raises:
        UserError: as ``cubin``.
    """
    flags = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device", *options]
    return _compile(text, [*flags, *(f"-D{k}={v}" for k, v in sorted((defines or {}).items()))], headers or {})


@contextmanager
def recorded() -> Iterator[dict[str, bytes]]:
    """What is launched inside: cubins by key, for ``ship``. Not for use in two threads at once."""
    global _record
    _record = {}
    try:
        yield _record
    finally:
        _record = None


def ship(found: Mapping[str, bytes], folder: Path) -> None:
    """Write what ``recorded`` saw to ``folder``, for ``add_shipped`` on the machine that runs it."""
    for key, image in found.items():
        _write(folder / f"{key}.cubin", image)


def add_shipped(folder: Path) -> None:
    """Take cubins from ``folder`` from now on; nothing is compiled that is there."""
    if folder not in _shipped:
        _shipped.append(folder)


def function(image: bytes, name: str, shared_bytes: int) -> int:
    """Handle of a kernel of ``image`` in the current context, allowed ``shared_bytes`` of dynamic shared memory."""
    import torch

    if _record is not None:
        _record[_keys[image]] = image
    return _function(image, name, shared_bytes, torch.cuda.current_device())


def launch(
    handle: int,
    grid: Sequence[int],
    threads: int,
    shared_bytes: int,
    stream: int,
    parameters: ctypes.Structure | Sequence[int | None],
    cluster: Sequence[int] = (1, 1, 1),
    early: bool = True,
) -> None:
    """Launch on a stream (safe while it is captured).

    Args:
        handle: see ``function``.
        grid: blocks.
        threads: of a block.
        shared_bytes: of a block.
        stream: the stream's handle.
        parameters: the kernel's only parameter, a struct; or device pointers (``None``: a null pointer).
        cluster: blocks of a cluster.
        early: it may begin before the previous kernel of the stream has ended, and waits itself (griddepcontrol).
    """
    attributes = (_Attribute * 2)()
    attributes[0].id = _PROGRAMMATIC
    attributes[0].value[0] = int(early)
    attributes[1].id = _CLUSTER_DIMENSION
    attributes[1].value[0:3] = list(cluster)
    first, last = int(not early), 1 if tuple(cluster) == (1, 1, 1) else 2
    used = (_Attribute * 2)(*attributes[first:last])
    config = _LaunchConfig(tuple(grid), (threads, 1, 1), shared_bytes, stream, used, last - first)
    values: list[ctypes.Structure | ctypes.c_void_p]
    if isinstance(parameters, ctypes.Structure):
        values = [parameters]
    else:
        values = [ctypes.c_void_p(pointer) for pointer in parameters]
    arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    _check(_driver().cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(handle), arguments, None), "launch")


def im2col_map(
    address: int,
    kind: int,
    sizes: Sequence[int],
    item: int,
    lower: Sequence[int],
    upper: Sequence[int],
    box: Sequence[int],
    steps: Sequence[int],
) -> bytes:
    """A CUtensorMap (128 bytes) of a dense tensor in im2col mode: sizes innermost first, swizzled, zeros outside.

    ``kind`` is a CUtensorMapDataType, ``lower`` and ``upper`` are the bounding box's corners, ``box`` is channels and
    pixels of a copy.
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
            (ctypes.c_uint64 * (rank - 1))(*strides), (ctypes.c_int * (rank - 2))(*lower),
            (ctypes.c_int * (rank - 2))(*upper), ctypes.c_uint32(box[0]), ctypes.c_uint32(box[1]),
            (ctypes.c_uint32 * rank)(*steps), 0, _SWIZZLE_128, _PROMOTE_256, 0,
        ),
        "cuTensorMapEncodeIm2col",
    )  # fmt: skip
    return ctypes.string_at(at, 128)


@functools.cache
def _function(image: bytes, name: str, shared_bytes: int, device: int) -> int:
    del device  # a module belongs to a context, and torch has one per device
    driver, module, handle = _driver(), ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver.cuModuleLoadData(ctypes.byref(module), image), "load a kernel")
    _check(driver.cuModuleGetFunction(ctypes.byref(handle), module, name.encode()), f"find {name}")
    setting = driver.cuFuncSetAttribute(handle, _MAX_DYNAMIC_SHARED, shared_bytes)
    _check(setting, f"take {shared_bytes} bytes of shared memory a block")
    assert handle.value is not None
    return handle.value


def _write(path: Path, image: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(image)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _compile(text: str, options: Sequence[str], headers: Mapping[str, str]) -> tuple[bytes, str]:
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    bodies = (ctypes.c_char_p * len(headers))(*(body.encode() for body in headers.values()))
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", len(headers), bodies, names)
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
        log = _read(program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise UserError(f"NVRTC refuses a CUDA kernel ({' '.join(options)}):\n{log}")
        return _read(program, "CUBIN"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(program: ctypes.c_void_p, what: str) -> bytes:
    nvrtc, size = _nvrtc(), ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.raw


@functools.cache
def version() -> tuple[int, int]:
    """Major and minor version of the library; raises ``UserError`` where there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


@functools.cache
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
    raise UserError("there is no NVRTC to compile CUDA kernels with; install a torch built with CUDA, it ships one")


def _check(status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"CUDA cannot {what}: {(text.value or b'unknown error').decode()} ({status})")
