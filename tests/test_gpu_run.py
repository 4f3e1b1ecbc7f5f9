"""The script for GPU machines: its parts can be chosen, and rehearsed where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts/gpu_run.sh"


def run(*arguments: object, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {"PATH": "/usr/bin:/bin", "PYTHON": python, "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=base | environment, check=False)


def test_an_unknown_part_or_option_is_refused(tmp_path: Path) -> None:
    done = run("--only", "tests,everything", tmp_path / "out")
    assert done.returncode == 2
    assert "--only everything is no part; the parts are tests,layers,network,pipeline,speed,methods" in done.stderr
    assert run("--fast").returncode == 2
    assert not (tmp_path / "out").exists()


def test_a_machine_without_a_gpu_is_told_of_the_rehearsal(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("--only", "layers", tmp_path / "out")
    assert done.returncode == 1
    assert "torch finds no NVIDIA GPU; rehearse with --dry-run" in done.stderr


@pytest.mark.exhaustive
def test_whole_networks_are_rehearsed(tmp_path: Path) -> None:
    done = run("--dry-run", "--only", "network,layers", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/networks.jsonl").read_text().splitlines()]
    timed = {row["version"] for row in rows if row["kind"] == "time"}
    assert timed == {"eager", "eager again", "st3 dense", "st3 2to4"}
    layers = [json.loads(line) for line in (tmp_path / "out/layers.jsonl").read_text().splitlines()]
    assert {row["density"] for row in layers if row["weights"] == "2to4"} == {0.5, 1.0}  # the first has 3 channels
    assert "st3 2to4" in done.stdout


@pytest.mark.exhaustive
def test_training_is_rehearsed_and_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        done = run("--dry-run", "--only", "speed,methods", tmp_path / "out")
        assert done.returncode == 0, done.stderr
    speed = [json.loads(line) for line in (tmp_path / "out/speed.jsonl").read_text().splitlines()]
    assert [row["method"] for row in speed] == ["dense", "dense again", "st3", "gmp"] * 2
    rows = [json.loads(line) for line in (tmp_path / "out/sweep.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["dense", "st3"]  # the second call trains nothing again
    assert "| st3 | unstructured | 0.9 |" in done.stdout
