"""Which TensorRT builds for which GPU, and what to do where none can."""

from __future__ import annotations

import re

import torch

from runtime.errors import UserError
from runtime.trt import INSTALL, RTX, TENSORRT, TITLES, Library, find, is_installed

OTHERS = "or use --backend inductor"


def unable() -> str | None:
    """Why nothing can be built on this machine; ``None`` if something can."""
    if is_installed(RTX):
        return None
    if not is_installed(TENSORRT):
        return (
            f"TensorRT is not installed: {INSTALL[TENSORRT]}; {TITLES[RTX]}, which builds without a GPU: {INSTALL[RTX]}"
        )
    if not torch.cuda.is_available():
        return (
            f"TensorRT times its kernels on the GPU that it builds for, and there is none here; "
            f"build on that machine, {OTHERS}"
        )
    return None


def architecture(wanted: str) -> str:
    """``sm_90`` for ``sm_90``, or for ``native`` that of the GPU here.

    Raises:
        UserError: it is no such name, there is no GPU here, or no TensorRT here builds for it.
    """
    if wanted == "native":
        wanted = _native()
    elif not re.fullmatch(r"sm_\d{2,3}", wanted):
        raise UserError(f"--arch {wanted} is no GPU architecture; give native or sm_NN, for instance sm_90")
    choose(wanted)
    return wanted


def _native() -> str:
    if not torch.cuda.is_available():
        raise UserError("there is no NVIDIA GPU here; say which one to build for: --arch sm_89")
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def gpu_here(wanted: str) -> str:
    """The architecture of the GPU here, which torch-tensorrt builds for and for no other.

    Raises:
        UserError: there is none, or another is wanted.
    """
    here = _native()
    if wanted not in ("native", here):
        raise UserError(f"torch-tensorrt builds for the GPU at hand, {here}, not for {wanted}; use --backend tensorrt")
    return here


def choose(wanted: str) -> Library:
    """The library that can build for an architecture: TensorRT where its GPU is at hand, else TensorRT for RTX.

    Raises:
        UserError: neither can; the message says which one would.
    """
    refusal = unable()
    if refusal is not None:
        raise UserError(f"--backend tensorrt: {refusal}")
    here = _native() if torch.cuda.is_available() else ""
    if here == wanted and is_installed(TENSORRT):
        library = find(TENSORRT)
        assert library is not None
        return library
    library = find(RTX)
    if library is None:
        raise UserError(
            f"TensorRT builds for the GPU at hand, {here}, not for {wanted}; build where such a GPU is, {OTHERS}"
        )
    known = rtx_architectures(library)
    if wanted not in known:
        raise UserError(
            f"{library.title} builds for {', '.join(known)}, not for {wanted}; "
            f"install TensorRT on a machine with such a GPU: {INSTALL[TENSORRT]}, {OTHERS}"
        )
    return library


def rtx_architectures(library: Library) -> tuple[str, ...]:
    """What TensorRT for RTX can build for, as ``sm_NN``."""
    names = library.module.ComputeCapability.__members__
    return tuple(f"sm_{name[2:]}" for name in names if re.fullmatch(r"SM\d+", name))
