"""Compiles and runs ``peaks.cpp``: how many multiply-adds this processor makes, and how fast it reads."""

from __future__ import annotations

import os
import subprocess
import tempfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec

from bench.measurement import Arithmetic, Bandwidth, Operand, Peak, Place
from bench.report.intervals import percentile
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


class Capacity(msgspec.Struct, frozen=True):
    """What this processor can do. ``note`` says why nothing is known where nothing could be measured."""

    peaks: tuple[Peak, ...] = ()
    bandwidths: tuple[Bandwidth, ...] = ()
    note: str = ""


def measure_capacity(cpu_sets: Iterable[Sequence[int]], repetitions: int = REPETITIONS) -> Capacity:
    """Compile the program and run it on each set of CPUs, one thread on each of a set's; some 2 s a set.

    Without a C++ compiler there is a note, and no error: all else can be measured without.
    """
    peaks: list[Peak] = []
    bandwidths: list[Bandwidth] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = build(Path(folder))
        except UserError as error:
            return Capacity(note=f"the processor's peak and bandwidth are not known: {error}")
        for cpus in cpu_sets:
            made, read = measure_program(program, cpus, repetitions)
            peaks += made
            bandwidths += read
    return Capacity(tuple(peaks), tuple(bandwidths))


def measure_program(
    program: Path, cpus: Sequence[int], repetitions: int = REPETITIONS
) -> tuple[list[Peak], list[Bandwidth]]:
    """GFLOP/s and GB/s of one thread on each of ``cpus``, all at once: one record per place."""
    command = [str(program), str(repetitions), *map(str, cpus)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S).stdout
    lines = {words[0]: tuple(map(float, words[1:])) for words in map(str.split, text.splitlines())}
    peaks = [
        Peak(operand=operand, threads=len(cpus), samples=lines[name], dtype=dtype)
        for dtype in get_args(Arithmetic)
        for operand in get_args(Operand)
        if (name := line_of(operand, dtype)) in lines
    ]
    places = get_args(Place)
    return peaks, [Bandwidth(place=place, threads=len(cpus), samples=lines[f"read-{place}"]) for place in places]


def line_of(operand: Operand, dtype: str) -> str:
    """What the program calls multiply-adds in a dtype."""
    return operand if dtype == "float32" else f"{dtype}-{operand}"


def peak_of(peaks: Iterable[Peak], operand: Operand, threads: int, dtype: str = "float32") -> float | None:
    """GFLOP/s: what nine of ten samples stay below; ``None`` where there are none."""
    wanted = (operand, threads, dtype)
    return _most(peak.samples for peak in peaks if (peak.operand, peak.threads, peak.dtype) == wanted)


def bandwidth_of(bandwidths: Iterable[Bandwidth], place: Place, threads: int) -> float | None:
    """GB/s: what nine of ten samples stay below; ``None`` where there are none."""
    return _most(found.samples for found in bandwidths if (found.place, found.threads) == (place, threads))


def _most(samples: Iterable[tuple[float, ...]]) -> float | None:
    pooled = list(chain.from_iterable(samples))
    return percentile(pooled, 0.9) if pooled else None
