"""Runs one artifact through the runtime and nothing else, and says how much memory the process took at most.

``python -m bench.cpu.alone ARTIFACT THREADS`` prints one JSON document: the peak in bytes and the packages imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

from bench.metrics.memory import peak_bytes
from runtime import load

RUNS = 5
_TIMEOUT_S = 120


class Alone(msgspec.Struct, frozen=True):
    """``packages`` are those outside the standard library that the process imported."""

    peak_bytes: int
    packages: tuple[str, ...]


def run_alone(artifact: str, threads: int) -> Alone:
    """Start the process and wait for it; raises ``CalledProcessError`` where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.cpu.alone", artifact, str(threads)],
        capture_output=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],  # where -m finds this very package, installed or not
        timeout=_TIMEOUT_S,
    )
    return msgspec.json.decode(done.stdout, type=Alone)


def main() -> None:
    """Load, run a few times, report."""
    engine = load(sys.argv[1], int(sys.argv[2]))
    spec = engine.artifact.manifest.input
    inputs = {spec.name: np.ones(spec.shape, np.float32)}
    for _ in range(RUNS):
        engine.run(inputs)
    peak = peak_bytes()
    packages = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
    found = tuple(sorted(name for name in packages if not name.startswith("_")))
    sys.stdout.write(msgspec.json.encode(Alone(peak, found)).decode() + "\n")
    engine.close()


if __name__ == "__main__":
    main()
