"""What a format of the target cuda is, and how one is found: a module in ``compile/cuda/formats``."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

import compile.cuda.formats
import runtime.cuda
from compile.cuda.problem import ConvProblem

DENSE = "dense"
"""The format that takes every layer: the baseline and the fallback."""

Buffers = dict[str, Tensor]


class Format(Protocol):
    """The functions that a format module defines.

    A ``Config`` is a frozen msgspec struct of ints, the format's own: one way to launch its kernel. The custom op lies
    in ``runtime/cuda/NAME.py``, which has the format's name and registers the op when it is imported.
    """

    def reject(self, weight: Tensor, problem: ConvProblem) -> str | None:
        """Why this format cannot be or is not worth it, in one clause for the layer table; ``None`` if it may be.

        ``weight`` is ``(N, C/groups, R, S)`` float32 on the CPU. Where it is the activation or the residual that a
        kernel lacks, the layer is asked again without it, and a plain op follows.
        """

    def pack(self, weight: Tensor) -> Buffers:
        """Plain dense CPU tensors.

        ``weight`` ``(N, C/groups, R, S)`` is on the CPU in the problem's dtype, and every value of it is kept exactly.
        """

    def unpack(self, buffers: Buffers, shape: Sequence[int]) -> Tensor:
        """The weight of that shape that was packed, in its dtype."""

    def configs(self, problem: ConvProblem) -> tuple[Any, ...]:
        """The candidates to be timed, best guess first; none if it cannot be."""

    def module(self, buffers: Buffers, bias: Tensor, problem: ConvProblem, config: Any) -> nn.Module:
        """``forward(x[, residual]) -> y``, channels last, in the problem's dtype.

        It registers its buffers (packed weights as they came, ``bias`` ``(N,)`` float32), calls one custom op and
        exports: no Python branch on a tensor. ``+ bias``, ``+ residual`` and the activation are in the op.
        """

    def macs_usable(self, weight: Tensor, problem: ConvProblem) -> int:
        """Multiply-adds that the kernel executes for the whole batch, those with stored zeros included."""

    def build(self, weight: Tensor, problem: ConvProblem, config: Any, arch: str) -> None:
        """Compile a candidate's kernel where that can be done ahead, so that its op finds it on disk.

        ``weight`` is in the problem's dtype. Several threads may build at once.
        """


def format_names() -> list[str]:
    """Every format there is."""
    return sorted(module.name for module in pkgutil.iter_modules(compile.cuda.formats.__path__))


def find_format(name: str) -> Format:
    """The format of that name."""
    assert name in format_names(), f"unknown format {name!r}, there are {format_names()}"
    return cast("Format", importlib.import_module(f"compile.cuda.formats.{name}"))


def source_digest(name: str) -> str:
    """Digest of the files that decide how fast a format runs: its own, its op's, and its op's kernels."""
    ops = Path(runtime.cuda.__path__[0])
    formats = Path(compile.cuda.formats.__path__[0])
    found = hashlib.sha256()
    for path in (formats / f"{name}.py", *sorted(ops.glob(f"{name}*.py")), *sorted((ops / "kernels").glob(f"{name}*"))):
        found.update(path.read_bytes())
    return found.hexdigest()
