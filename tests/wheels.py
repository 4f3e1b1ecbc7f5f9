"""The runtime's own wheel, and venvs that hold it and what it needs, made without a network."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def call(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed, without this checkout on Python's path."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=cwd, env=ALONE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build_wheel(folder: Path) -> Path:
    """``st3_runtime-*.whl`` of this checkout."""
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT / "packaging/st3-runtime")
    (found,) = folder.glob("*.whl")
    return found


def venv_with(folder: Path, packages: Iterable[str]) -> Path:
    """A venv without pip whose packages are links to ours, with all that they need; its Python."""
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for package in _with_needs(packages):
        distribution = importlib.metadata.distribution(package)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(Path(distribution.locate_file(top)))
    return folder / "bin/python"


def _with_needs(packages: Iterable[str]) -> set[str]:
    """The packages and what they need, by the names that are installed here; skips where one is not."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    left = list(packages)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        found.add(name)
        wanted = [Requirement(text) for text in needs]
        left += [need.name for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found
