"""Finds the TensorRT that is installed, and says how a plan is tied to it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

import msgspec

from runtime import strict_json
from runtime.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

TENSORRT = "tensorrt"
RTX = "tensorrt_rtx"
TITLES = {TENSORRT: "TensorRT", RTX: "TensorRT for RTX"}
INSTALL = {
    TENSORRT: "pip install tensorrt-cu13 (or tensorrt-cu12; from NVIDIA's index, on a machine with a driver)",
    RTX: "pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}
PLAN_FILE = "model.plan"
INFO_FILE = "plan.json"

# the modules that hold the Python API, the first that is installed counts; a wheel of bindings works without the
# package that renames it
_MODULES = {TENSORRT: ("tensorrt", "tensorrt_bindings"), RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings")}


class Library(msgspec.Struct, frozen=True):
    """An installed TensorRT: ``tensorrt`` or ``tensorrt_rtx``, its version, its Python module."""

    key: str
    version: str
    module: Any

    @property
    def title(self) -> str:
        """``TensorRT 10.15.1.29``."""
        return f"{TITLES[self.key]} {self.version}"


class PlanInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``payload/plan.json``: what built the plan, and for which GPU (``gpu`` is empty where none was at hand)."""

    library: str
    version: str
    architecture: str
    gpu: str = ""


def is_installed(key: str) -> bool:
    """Whether one of a library's modules is there; imports nothing."""
    return any(has_module(name) for name in _MODULES[key])


def has_module(name: str) -> bool:
    """Whether a module is there; a mere folder of that name, which Python takes for an empty package, is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def find(key: str) -> Library | None:
    """Import a library; ``None`` where it is not installed.

    Raises:
        ArtifactError: it is installed and cannot be loaded, for instance without the shared libraries of its own.
    """
    for name in _MODULES[key]:
        if not has_module(name):
            continue
        try:
            module = importlib.import_module(name)
            return Library(key, str(module.__version__), module)
        except (ImportError, OSError) as error:
            raise ArtifactError(
                f"{TITLES[key]} is installed and cannot be loaded ({error}); install it again: {INSTALL[key]}"
            ) from error
    return None


def read_info(payload: Path) -> PlanInfo:
    """What a payload's plan was built with; raises ``ArtifactError`` where that is missing or damaged."""
    path = payload / INFO_FILE
    try:
        return strict_json.read(path, PlanInfo)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); compile the artifact again") from error


def require(info: PlanInfo) -> Library:
    """The library that built a plan, in the version that did; a plan is read by no other.

    Raises:
        ArtifactError: it is not installed, or another version is.
    """
    if info.library not in TITLES:
        raise ArtifactError(
            f"the plan was built by {info.library!r}, which this runtime does not know; update st3 or compile again"
        )
    library = find(info.library)
    wanted = f"{TITLES[info.library]} {info.version}"
    if library is None:
        raise ArtifactError(
            f"this artifact needs {wanted}, which is not installed: {INSTALL[info.library]}, version {info.version}"
        )
    if library.version != info.version:
        raise ArtifactError(
            f"this artifact was built by {wanted} and {library.version} is installed; a plan runs only in the version "
            f"that built it: install {info.version} or compile again"
        )
    return library
