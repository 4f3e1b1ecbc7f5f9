"""Compares the peak that ``bench.machine.peaks`` measures with two others that share nothing with it but the core.

``python tests/bench/independent_peak.py`` prints the three and exits with 1 where the assembly loop is more than 10 %
away. What is independent: ``bench/machine/peaks.cpp`` has the compiler's vectors, whose multiply-adds the compiler
writes and the source counts, timed by the wall clock; ``independent_peak.cpp`` is an assembly loop whose instructions
are counted by hand, timed by the thread's own clock; NumPy's matrix product is OpenBLAS' hand-written kernel, counted
as 2 n^3, and bounds the peak from below.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.environment import usable_cpus
from bench.machine.peaks import build, measure_program, peak_of
from bench.report.intervals import percentile

SOURCE = Path(__file__).with_suffix(".cpp")
BOUND = 0.1
_SIZE = 1024
_SHORT = 20  # samples of the assembly loop in the time of one of ours
_PRODUCT = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
import numpy as np
n = int(sys.argv[2])
a, b = (np.random.default_rng(i).standard_normal((n, n)).astype(np.float32) for i in (0, 1))
a @ b
for _ in range(int(sys.argv[3])):
    start = time.thread_time()
    a @ b
    print(2 * n**3 / (time.thread_time() - start) / 1e9)
"""


class Peaks(msgspec.Struct):
    """GFLOP/s of one core: what nine of ten samples stay below."""

    ours: float
    assembly: float
    product: float


def measure(rounds: int, repetitions: int = 15) -> Peaks:
    """All three in turns, on the same core, so that a clock that changes changes for all."""
    cpu = usable_cpus()[0]
    ours, assembly, product = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        other = Path(folder) / "independent"
        subprocess.run(["g++", "-O1", "-march=native", "-o", str(other), str(SOURCE)], check=True)
        for _ in range(rounds):
            ours += measure_program(program, [cpu], repetitions)[0]
            assembly += _samples([str(other), str(_SHORT * repetitions), str(cpu)])
            product += _samples([sys.executable, "-c", _PRODUCT, str(cpu), str(_SIZE), "5"])
    peak = peak_of(ours, "registers", 1)
    assert peak is not None
    return Peaks(peak, percentile(assembly, 0.9), percentile(product, 0.9))


def _samples(command: list[str]) -> list[float]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


if __name__ == "__main__":
    start = time.perf_counter()
    found = measure(rounds=5)
    off = found.ours / found.assembly - 1
    sys.stdout.write(
        f"one core, GFLOP/s: bench.machine.peaks {found.ours:.1f}, assembly {found.assembly:.1f} ({off:+.1%}), "
        f"matrix product {found.product:.1f} ({found.product / found.ours:.1%} of the peak), "
        f"{time.perf_counter() - start:.0f} s\n"
    )
    raise SystemExit(abs(off) > BOUND)
