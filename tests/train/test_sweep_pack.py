"""How runs share a machine, with a stand-in for NVIDIA's MPS control program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from train import sweep_pack
from train.sweep_pack import shared_gpu

CONTROL = """#!{python}
import os, sys
with open("{notes}", "a") as stream:
    order = "start" if sys.argv[1:] == ["-d"] else sys.stdin.read().strip()
    print(order, os.path.isdir(os.environ["CUDA_MPS_PIPE_DIRECTORY"]), file=stream)
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    control = tmp_path / "nvidia-cuda-mps-control"
    control.write_text(CONTROL.format(python=sys.executable, notes=tmp_path / "notes"))
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "notes"


def test_mps_is_started_for_several_runs_and_stopped(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_pack, "_PROBE", "import os; os.environ['CUDA_MPS_PIPE_DIRECTORY']")
    with shared_gpu(4, "cuda") as (variables, line):
        assert set(variables) == {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}
        assert line == "4 runs share the GPU through MPS"
        assert notes.read_text() == "start True\n"
    assert notes.read_text() == "start True\nquit True\n"
    assert not Path(variables["CUDA_MPS_PIPE_DIRECTORY"]).exists()


def test_runs_take_turns_where_mps_does_not_work(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_pack, "_PROBE", "raise SystemExit('no client may connect')")
    with shared_gpu(4, "cuda") as (variables, line):
        assert variables == {}
        assert line == "runs take turns on the GPU: MPS does not work here (no client may connect)"
    assert notes.read_text() == "start True\nquit True\n"
    for jobs, device in ((1, "cuda"), (4, "cpu")):
        with shared_gpu(jobs, device) as (variables, line):
            assert (variables, line) == ({}, "")


def test_runs_take_turns_without_mps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with shared_gpu(4, "cuda") as (variables, line):
        assert variables == {}
        assert line == "runs take turns on the GPU: nvidia-cuda-mps-control is not here"
