"""What is installed of all that st3 can use, and the command that installs what is missing."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from runtime import trt
from runtime.errors import ArtifactError, UserError

_TIMEOUT_S = 30
_OLDEST_GXX = 11


class Part(msgspec.Struct, frozen=True):
    """One thing to have.

    Attributes:
        name: what it is called.
        purpose: what st3 uses it for.
        found: its version or what was found; empty where it is missing.
        problem: why what is there cannot be used; empty where it can.
        install: the command that installs it; empty where it is there.
    """

    name: str
    purpose: str
    found: str = ""
    problem: str = ""
    install: str = ""


def examine() -> tuple[Part, ...]:
    """Look at everything once; nothing that is missing or broken is an error."""
    return tuple(_guarded(look) for look in (*_CPU, *_GPU))


def _guarded(look: Callable[[], Part]) -> Part:
    try:
        return look()
    except Exception as error:  # a broken package raises what it likes when it is imported
        name = look.__name__.strip("_").replace("_", " ")
        return Part(name, "", problem=f"{type(error).__name__}: {error}".splitlines()[0])


def _cxx() -> Part:
    from compile.native.isa import isa_for
    from compile.native.toolchain import compiler

    purpose = f"the native backend; it compiles for {isa_for('native').name} here"
    install = f"apt install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora); {_OLDEST_GXX} or newer"
    try:
        path = compiler()
    except UserError as error:
        return Part("C++ compiler", purpose, problem=str(error), install=install)
    first = _output([path, "--version"]).partition("\n")[0]
    major = _output([path, "-dumpversion"]).strip().partition(".")[0]
    if "clang" not in first and major.isdigit() and int(major) < _OLDEST_GXX:
        return Part("C++ compiler", purpose, first, f"older than {_OLDEST_GXX}", install)
    return Part("C++ compiler", purpose, first or path)


def _cross_compiler() -> Part:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    name = f"{other}-linux-gnu-g++"
    path = shutil.which(name)
    install = f"apt install g++-{other.replace('_', '-')}-linux-gnu"
    purpose = f"--isa for {other}"
    return (
        Part(name, purpose, _output([path, "--version"]).partition("\n")[0])
        if path
        else Part(name, purpose, install=install)
    )


def _torch() -> Part:
    return _package("torch", "checkpoints, training, inductor", "pip install torch")


def _onnxruntime() -> Part:
    return _package("onnxruntime", "the onnxruntime backend, ONNX files' reference answers", "pip install onnxruntime")


def _openvino() -> Part:
    return _package("openvino", "a yardstick (st3 bench --baseline, make bench-cpu)", "pip install 'st3[openvino]'")


def _timm() -> Part:
    return _package("timm", "networks by --model timm:NAME", "pip install 'st3[timm]'")


def _aiohttp() -> Part:
    return _package("aiohttp", "st3 serve", "pip install 'st3[serve]'")


def _cryptography() -> Part:
    return _package("cryptography", "signatures of artifacts", "pip install 'st3[sign]'")


def _driver() -> Part:
    found = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).partition("\n")[0].strip()
    install = "" if found else "apt install nvidia-driver-580 (Ubuntu), on a machine with an NVIDIA GPU"
    return Part("NVIDIA driver", "everything on a GPU", found, install=install)


def _cuda_of_torch() -> Part:
    purpose = "--target cuda"
    try:
        import torch
    except ImportError as error:
        return Part("torch with CUDA", purpose, problem=str(error), install="pip install torch")
    version = torch.version.cuda
    if version is None:
        install = "pip install --force-reinstall torch"
        return Part("torch with CUDA", purpose, problem=f"torch {torch.__version__} has no CUDA", install=install)
    problem = "" if torch.cuda.is_available() else "torch finds no GPU that it can use"
    return Part("torch with CUDA", purpose, f"CUDA {version}", problem)


def _cusparselt() -> Part:
    purpose = "the format cusparselt (2:4, 1x1 and linear)"
    install = "pip install nvidia-cusparselt-cu13"
    try:
        import torch
    except ImportError as error:
        return Part("cuSPARSELt", purpose, problem=str(error), install="pip install torch")
    version = torch.backends.cusparselt.version()
    if version:
        broken = "" if torch.backends.cusparselt.is_available() else "no GPU to run it on"
        return Part("cuSPARSELt", purpose, f"{version // 10000}.{version // 100 % 100}.{version % 100}", broken)
    library = _installed("nvidia-cusparselt-cu13") or _installed("nvidia-cusparselt-cu12")
    if library:
        return Part("cuSPARSELt", purpose, library, "torch does not load it; it does on a GPU alone")
    return Part("cuSPARSELt", purpose, install=install)


def _nvrtc() -> Part:
    from runtime.cuda.nvrtc import version

    purpose = "compiles our kernels for a GPU"
    try:
        return Part("NVRTC", purpose, "{}.{}".format(*version()))
    except UserError as error:
        return Part("NVRTC", purpose, problem=str(error), install="pip install nvidia-cuda-nvrtc")


def _nvcc() -> Part:
    path = shutil.which("nvcc") or next((str(p) for p in [Path("/usr/local/cuda/bin/nvcc")] if p.is_file()), None)
    purpose = "nothing of st3's: NVRTC compiles the kernels"
    if path is None:
        return Part("nvcc", purpose, install="apt install nvidia-cuda-toolkit")
    lines = [line for line in _output([path, "--version"]).splitlines() if "release" in line]
    return Part("nvcc", purpose, lines[0].strip() if lines else path)


def _triton() -> Part:
    return _package("triton", "the format column_union, inductor's kernels on a GPU", "pip install triton")


def _tensorrt() -> Part:
    return _trt(trt.TENSORRT, "the tensorrt backend on a machine with a GPU")


def _tensorrt_rtx() -> Part:
    return _trt(trt.RTX, "the tensorrt backend, also without a GPU (--arch)")


def _torch_tensorrt() -> Part:
    return _package("torch-tensorrt", "the torch_tensorrt backend", "pip install torch-tensorrt")


def _trt(key: str, purpose: str) -> Part:
    title = trt.TITLES[key]
    try:
        found = trt.find(key)
    except ArtifactError as error:
        return Part(title, purpose, problem=str(error), install=trt.INSTALL[key])
    return Part(title, purpose, found.version) if found else Part(title, purpose, install=trt.INSTALL[key])


def _package(name: str, purpose: str, install: str) -> Part:
    version = _installed(name)
    return Part(name, purpose, version, install="" if version else install)


def _installed(name: str) -> str:
    """The version of a package, read without importing it; empty where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


_CPU = (_cxx, _cross_compiler, _torch, _onnxruntime, _openvino, _timm, _aiohttp, _cryptography)
_GPU = (
    _driver,
    _cuda_of_torch,
    _nvrtc,
    _triton,
    _cusparselt,
    _tensorrt,
    _tensorrt_rtx,
    _torch_tensorrt,
    _nvcc,
)
