"""What a backend is, and how one is found: a module in ``compile/backends`` whose file name is its key."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import msgspec

import compile.backends
from compile.network import Network
from runtime.artifact import DeviceProof, Requirements, Target
from runtime.errors import UserError


class LayerFacts(msgspec.Struct, frozen=True):
    """What a GPU's artifact knows of a layer, and of ``underflows`` any one in half precision; see ``LayerEntry``.

    ``macs_usable`` is per picture.
    """

    macs_usable: int | None = None
    kernels: tuple[str, ...] = ()
    dense_us: float | None = None
    chosen_us: float | None = None
    error: float | None = None
    underflows: int | None = None


class Built(msgspec.Struct, frozen=True):
    """What a backend made: the engine that runs it, per layer its format and the reason, what a machine must have.

    ``facts`` are per layer what a GPU's artifact knows beyond that, ``proof`` the same of the whole network.
    ``deviations`` are what was measured of the network as built: ``max|y - golden| / max|golden|`` of each output;
    empty where a float32 sum in another order is all that differs.
    """

    engine: str
    formats: dict[str, tuple[str, str]]
    requirements: Requirements
    facts: dict[str, LayerFacts] = {}
    proof: DeviceProof | None = None
    deviations: tuple[float, ...] = ()


class Effort(msgspec.Struct, frozen=True):
    """How much a backend may do: whether it measures alternatives on this machine, and whom it tells what it does."""

    tune: bool = False
    report: Callable[[str], None] = lambda _: None


AS_MODELLED = Effort()
"""Nothing is measured; what a cost model prefers is taken."""


class Backend(Protocol):
    """The functions that a backend module defines. ``device`` is ``cpu`` or ``cuda``."""

    def unable(self, device: str, dtype: str = "float32") -> str | None:
        """Why this backend cannot build for a device and dtype on this machine, what to do; ``None`` if it can."""

    def architecture(self, wanted: str, device: str = "cpu") -> str:
        """The target's architecture for what the user asked for with ``--isa`` or ``--arch``.

        ``native`` is what this machine has.
        """

    def uses_zeros(self, device: str = "cpu") -> bool:
        """Whether a sparse checkpoint can run faster through this backend than a dense one."""

    def several_batch_sizes(self) -> bool:
        """Whether one artifact can hold several batch sizes."""

    def build(self, network: Network, target: Target, folder: Path, effort: Effort) -> Built:
        """Write ``folder/payload`` (and, if it helps a reader, ``folder/source``).

        ``folder/golden`` is there already, as the artifact will have it. The network is that for the largest of the
        target's batch sizes.
        """


def backend_names() -> list[str]:
    """Every backend there is."""
    return sorted(module.name for module in pkgutil.iter_modules(compile.backends.__path__))


def find_backend(name: str) -> Backend:
    """The backend of that name; a ``UserError`` that lists the valid ones if there is none."""
    if name not in backend_names():
        raise UserError(f"unknown backend {name!r}; choose one of {', '.join(backend_names())}")
    return cast("Backend", importlib.import_module(f"compile.backends.{name}"))
