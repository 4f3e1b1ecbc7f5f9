"""What this machine is, and whether an artifact can run on it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import ArtifactError

if TYPE_CHECKING:
    from runtime.artifact import Artifact

# what a reader recognises a processor by, oldest first
_VECTOR_FLAGS = ("sse2", "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512vl", "asimd", "sve")


def cpu_flags() -> frozenset[str]:
    """CPU features as the Linux kernel names them (``avx2``, ``avx512f``, ``asimd``); empty where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def check_requirements(artifact: Artifact) -> None:
    """Raise ``ArtifactError`` that says what the artifact needs and this machine lacks."""
    needs = artifact.manifest.requirements
    for wanted, here in ((needs.system, platform.system()), (needs.machine, platform.machine())):
        if wanted and wanted != here:
            raise ArtifactError(f"{artifact.folder} needs {wanted}, this machine is {here}; compile it for this one")
    flags = cpu_flags()
    missing = [flag for flag in needs.cpu_flags if flag not in flags]
    if missing:
        has = " ".join(flag for flag in _VECTOR_FLAGS if flag in flags) or "no vector instructions that it names"
        raise ArtifactError(
            f"{artifact.folder} needs {' '.join(missing)}; this machine has {has}; "
            f"compile it for this one (st3 compile --isa)"
        )
    if needs.packages:
        _check_packages(artifact)


def _check_packages(artifact: Artifact) -> None:
    import importlib.metadata  # which takes a fifth of the time that importing the runtime does

    for package, version in artifact.manifest.requirements.packages.items():
        try:
            importlib.metadata.version(package)
        except (importlib.metadata.PackageNotFoundError, ValueError):  # of a name that is none
            raise ArtifactError(
                f"{artifact.folder} needs the package {package} (built with {version}); "
                f"install it: pip install {package}=={version.partition('+')[0]}"
            ) from None
