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


def test_what_draws_the_report_is_asked_for_by_the_pipeline_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *given: None if name == 'plotly' else find(name, *given)\n"
    )
    done = run("--only", "layers,pipeline", tmp_path / "out", PYTHONPATH=str(tmp_path))
    assert "lacks plotly;" in done.stderr
    done = run("--only", "layers,network", tmp_path / "out", PYTHONPATH=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert "torch finds no NVIDIA GPU" in done.stderr


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
    assert [row["method"] for row in speed] == ["dense", "dense again", "st3", "gmp"]  # nor measures it
    rows = [json.loads(line) for line in (tmp_path / "out/sweep.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["dense", "st3"]  # the second call trains nothing again
    assert "| st3 | unstructured | 0.9 |" in done.stdout


def stand_in(tmp_path: Path, body: str) -> Path:
    """A python3 that answers the script's own questions as the real one does, and runs ``body`` for each part."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/bash\nif [ "$1" = - ]; then exit 0; fi\n{body}\n')
    python.chmod(0o755)
    return python


def test_a_part_that_fails_is_named_at_the_end_and_done_again_alone(tmp_path: Path) -> None:
    python = stand_in(tmp_path, f'echo "$2" >>{tmp_path}/calls; [[ $1$2 != *speed ]] || [ -e {tmp_path}/repaired ]')
    arguments = "--dry-run", "--only", "layers,speed,network", tmp_path / "out"
    done = run(*arguments, python=str(python))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: speed failed with exit code 1; the same command goes on with it"
    assert (tmp_path / "calls").read_text().split() == ["--network", "train.speed", "resnet18:1"]
    (tmp_path / "repaired").touch()
    again = run(*arguments, python=str(python))
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "calls").read_text().split()[3:] == ["train.speed"]
    assert "-- done before: cpu layers" in again.stdout


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    python = stand_in(tmp_path, "[[ $1 != *layers* ]] || sleep 60")
    done = run("--dry-run", "--only", "layers,network", tmp_path / "out", python=str(python), LIMIT="1")
    assert done.returncode == 1
    assert "error: layers was stopped after LIMIT=1 seconds" in done.stderr
    assert (tmp_path / "out/done.txt").read_text().split()[1] == "network"


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/bash\nexec {sys.executable} -S -s "$@"\n')
    bare.chmod(0o755)
    done = run("--dry-run", "--only", "tests", tmp_path / "out", python=str(bare))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: python3 lacks torch torchvision")
