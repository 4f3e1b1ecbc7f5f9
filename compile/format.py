"""What a format is, and how one is found: a module in ``compile/formats`` whose file name is its key."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

import compile.formats
from compile.native.taps import Taps


class Cut(msgspec.Struct, frozen=True):
    """How a weight is cut into pieces that run one after another.

    ``chunk`` input channels at a time, ``groups`` runs of output channels that may run on different threads, ``block``
    output channels that share a load. A format uses what applies to it.
    """

    chunk: int
    groups: int = 1
    block: int = 1


class Format(Protocol):
    """The functions that a format module defines; weights are ``(N, C/groups, R, S)``."""

    def reject(self, weight: NDArray[np.float32]) -> str | None:
        """Why this format is not worth it for a weight, or ``None``."""

    def pack(self, weight: NDArray[np.float32], taps: Taps, cut: Cut) -> Any:
        """The packed weight; every value that is not zero is kept bit for bit."""

    def unpack(self, packed: Any, taps: Taps, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """The weight that was packed."""


def format_names() -> list[str]:
    """Every format there is."""
    return sorted(module.name for module in pkgutil.iter_modules(compile.formats.__path__))


def find_format(name: str) -> Format:
    """The format of that name."""
    assert name in format_names(), f"unknown format {name!r}, there are {format_names()}"
    return cast("Format", importlib.import_module(f"compile.formats.{name}"))
