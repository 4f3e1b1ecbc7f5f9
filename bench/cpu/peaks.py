"""Compiles and runs ``peaks.cpp``: how many multiply-adds this processor makes, by where an operand lies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from bench.measurement import Operand, Peak
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = Path(__file__).with_name("peaks.cpp")
REPETITIONS = 15
_TIMEOUT_S = 120


def build(folder: Path) -> Path:
    """Compile the program into ``folder``; raises ``UserError`` where there is no C++ compiler that can."""
    program = folder / "peaks"
    compiler = os.environ.get("CXX") or "g++"
    command = [compiler, "-std=c++20", "-O3", "-march=native", "-pthread", "-o", str(program), str(SOURCE)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except OSError as error:
        raise UserError(f"{compiler!r} cannot be run ({error}); install g++ 11 or newer, or point CXX to it") from error
    except subprocess.CalledProcessError as error:
        first = (error.stderr.strip() or "no message").splitlines()[0]
        raise UserError(f"{compiler} cannot compile {SOURCE.name}: {first}; it must be g++ 11 or newer") from error
    return program


def measure_peaks(program: Path, cpus: Sequence[int]) -> list[Peak]:
    """GFLOP/s of one thread on each of ``cpus``, all at once: one record per place of the operand."""
    command = [str(program), str(REPETITIONS), *map(str, cpus)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S).stdout
    lines = {words[0]: tuple(map(float, words[1:])) for words in map(str.split, text.splitlines())}
    return [Peak(operand=operand, threads=len(cpus), samples=lines[operand]) for operand in get_args(Operand)]
