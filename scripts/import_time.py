"""Measures how long ``import runtime`` takes in a venv that holds the runtime's wheel alone, beside ``import numpy``.

    python scripts/import_time.py                     builds the wheel and the venv (pip needs a network), 20 rounds
    python scripts/import_time.py --python VENV/bin/python --rounds 5

Each import is a process of its own, in turns; the time is the import's alone, Python's start is not in it. What is the
runtime's own is the difference: what it imports beside numpy, msgspec included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("numpy", "runtime")
_CODE = (
    "import time; c, t = time.process_time(), time.perf_counter(); import {}; "
    "print(time.perf_counter() - t, time.process_time() - c)"
)


def main() -> None:
    """Print median, fastest and slowest in milliseconds, wall and processor time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="of a venv that has the wheel; default: one is made")
    parser.add_argument("--rounds", type=int, default=20, help="imports of each module (default: 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON document with every sample on stdout")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {given.rounds}")
    with tempfile.TemporaryDirectory() as folder:
        python = given.python or make_venv(Path(folder))
        samples = measure(python, given.rounds, Path(folder))
    if given.json:
        sys.stdout.write(json.dumps(samples) + "\n")
        return
    for name, kinds in samples.items():
        for kind, values in kinds.items():
            sys.stdout.write(
                f"import {name:8} {kind:9} median {statistics.median(values):6.1f} ms, "
                f"{min(values):.1f} to {max(values):.1f}, {len(values)} processes\n"
            )


def make_venv(folder: Path) -> Path:
    """A venv with the wheel of this checkout and what it needs; its Python."""
    project = ROOT / "packaging/st3-runtime"
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=project, check=True)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    return python


def measure(python: Path, rounds: int, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each import, wall and processor time; one round before is thrown away."""
    samples: dict[str, dict[str, list[float]]] = {name: {"wall": [], "processor": []} for name in MODULES}
    for number in range(rounds + 1):
        for name in MODULES:
            command = [str(python.absolute()), "-I", "-c", _CODE.format(name)]
            done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
            wall, processor = map(float, done.stdout.split())
            if number:
                samples[name]["wall"].append(1e3 * wall)
                samples[name]["processor"].append(1e3 * processor)
    return samples


if __name__ == "__main__":
    main()
