"""Finds the C++ compiler and turns generated source into a shared library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from compile.native.isa import Isa
from runtime.errors import UserError

KERNELS = Path(__file__).parent / "kernels"

_FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-gnu-unique",  # two loaded networks must never share a symbol
    "-ffp-contract=fast",  # a multiply and its add become one instruction
    "-fno-math-errno",  # a square root is one instruction
    "-fno-exceptions",
    "-fno-rtti",
    "-Wl,--as-needed",  # nothing of the C++ library is used, so the artifact shall not ask for it
    "-s",
    "-Wall",
    "-Wextra",
)


def compiler() -> str:
    """Path of the C++ compiler: ``$CXX``, else g++."""
    wanted = os.environ.get("CXX") or "g++"
    found = shutil.which(wanted)
    if found is None:
        raise UserError(
            f"the native backend needs a C++ compiler, and {wanted!r} was not found; "
            f"install g++ 11 or newer (Debian, Ubuntu: apt install g++) or point CXX to one"
        )
    return found


def build_library(source: Path, library: Path, isa: Isa, extra_flags: tuple[str, ...] = ()) -> None:
    """Compile one generated source file; raises ``UserError`` with the compiler's first complaint."""
    command = [compiler(), *_FLAGS, *isa.compiler_flags, *extra_flags, f"-I{KERNELS}", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        first = lines[0] if lines else f"exit status {done.returncode}"
        raise UserError(f"{command[0]} could not compile {source}: {first}; it must be g++ 11 or newer")
