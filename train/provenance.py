"""Which code made a checkpoint: the commit and the versions of what it ran on."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """Hash of the checked-out commit, with ``-dirty`` if tracked files differ from it; ``unknown`` outside git."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        # a commit of some other repository that this one is installed under says nothing
        if _git(here, "ls-files", Path(__file__).name) != Path(__file__).name:
            return "unknown"
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("-dirty" if changed else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "st3"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()
