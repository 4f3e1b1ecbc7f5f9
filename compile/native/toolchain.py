"""Finds the C++ compiler and turns source into an object, a shared library or a program."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from compile.native.isa import Isa
from runtime.errors import UserError

KERNELS = Path(__file__).parent / "kernels"

_FLAGS = (
    "-std=c++20",
    "-O3",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-gnu-unique",  # two loaded networks must never share a symbol
    "-ffp-contract=fast",  # a multiply and its add become one instruction
    "-fno-math-errno",  # a square root is one instruction
    "-fno-exceptions",
    "-fno-rtti",
    "-Wall",
    "-Wextra",
)
_LIBRARY_FLAGS = (
    "-fPIC",
    "-shared",
    "-Wl,--as-needed",  # nothing of the C++ library is used, so the artifact shall not ask for it
    "-s",
)


def compiler(machine: str = "") -> str:
    """Path of the C++ compiler for a processor: ``$CXX``, else g++, for this one; for another Debian's cross compiler.

    Raises:
        UserError: it is not installed; the message says how to install it.
    """
    if machine in ("", platform.machine()):
        wanted = os.environ.get("CXX") or "g++"
        advice = "install g++ 11 or newer (Debian, Ubuntu: apt install g++) or point CXX to one"
    else:
        wanted = f"{machine}-linux-gnu-g++"
        advice = f"install it (Debian, Ubuntu: apt install g++-{machine.replace('_', '-')}-linux-gnu)"
    found = shutil.which(wanted)
    if found is None:
        purpose = f" for {machine}" if machine else ""
        raise UserError(f"the native backend needs a C++ compiler{purpose}, and {wanted!r} was not found; {advice}")
    return found


def build_object(source: Path, result: Path, isa: Isa) -> None:
    """Compile one file of a library; raises ``UserError`` with the compiler's first complaint."""
    _build([source], result, isa, ("-fPIC", "-c"))


def build_library(sources: Sequence[Path], library: Path, isa: Isa) -> None:
    """Make a shared library of objects, or compile source files into one."""
    _build(sources, library, isa, _LIBRARY_FLAGS)


def build_program(source: Path, program: Path, isa: Isa, extra_flags: tuple[str, ...] = ()) -> None:
    """Compile a source file with a ``main`` and includes of the kernels or of a generated network, as tests do."""
    _build([source], program, isa, extra_flags)


def _build(sources: Sequence[Path], result: Path, isa: Isa, flags: tuple[str, ...]) -> None:
    command = [compiler(isa.machine), *_FLAGS, *isa.compiler_flags, *flags, f"-I{KERNELS}", "-o", str(result)]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        first = lines[0] if lines else f"exit status {done.returncode}"
        needed = 11 if isa.dtype == "float32" else 12
        raise UserError(f"{command[0]} could not compile {sources[0]}: {first}; it must be g++ {needed} or newer")
