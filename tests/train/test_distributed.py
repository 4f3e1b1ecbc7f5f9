"""Two processes on the CPU, started as a user starts them, against one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from train_toy import job, run, same, with_values

from train.distributed import World
from train.state import State, StateStore

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parents[1]

_WORKER = """
import sys
from pathlib import Path
import safetensors.torch, torch
from train_toy import job, run, with_values
from train.distributed import join, leave
world = join(cuda=False)
recipe = with_values(accumulate=1, model={network})
for method, finetune in {cases}:
    folder = Path(sys.argv[1]) / method
    wanted = job(method, recipe=recipe, finetune_steps=finetune, more={{"world": world}})
    trainer = run(wanted, folder / "run")
    tensors = {{name: value.contiguous() for name, value in trainer.state().tensors.items()}}
    for name, layer in (("0", trainer.model[0]), ("3", trainer.model[3])):
        tensors[f"mask.{{name}}"] = (layer.weight != 0).contiguous()
    safetensors.torch.save_file(tensors, folder / f"rank{{world.rank}}.safetensors")
leave()
"""
# batch normalisation and no dropout: one process that cuts its batches in two has the same statistics in each half
_NETWORK = (
    "lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, 2, bias=False), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), "
    "torch.nn.Linear(72, 10))"
)
_CASES = [("st3", 0), ("gmp", 4)]
"""Method, and steps of fine-tuning."""


def torchrun(*arguments: str, restarts: int = 0) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts",
        str(restarts), *arguments,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}"}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make of all cases: a folder for each method."""
    folder = tmp_path_factory.mktemp("two")
    for method, _ in _CASES:
        (folder / method).mkdir()
    worker = folder / "worker.py"
    worker.write_text(_WORKER.format(network=_NETWORK, cases=_CASES))
    done = subprocess.run(
        torchrun(str(worker), str(folder)), env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize(("method", "finetune"), _CASES)
def test_two_processes_are_one_process_that_cuts_its_batches_in_two(
    method: str, finetune: int, two_processes: Path, tmp_path: Path
) -> None:
    import safetensors.torch

    folder = two_processes / method
    first, second = (safetensors.torch.load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1))
    # the statistics are of a process's own pictures
    own = {name for name in first if "running" in name or "num_batches" in name}
    assert own
    for name in first.keys() - own:
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes"
    assert any(not torch.equal(first[name], second[name]) for name in own) or finetune
    alone = run(
        job(method, recipe=with_values(accumulate=2, model=eval(_NETWORK)), finetune_steps=finetune), tmp_path / "alone"
    )
    for name, value in alone.state().tensors.items():
        if name not in own:
            assert torch.allclose(value.float(), first[name].float(), atol=1e-5), name
    masks = {"mask.0": alone.model[0].weight != 0, "mask.3": alone.model[3].weight != 0}
    assert same(masks, {name: first[name] for name in masks})
    log = (folder / ".run.training/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in log] == pytest.approx(
        [json.loads(line)["loss"] for line in (tmp_path / ".alone.training/log.jsonl").read_text().splitlines()],
        rel=1e-4,
    )


def test_a_process_that_dies_is_started_again_from_the_last_state(tmp_path: Path, evaluation: Path) -> None:
    out = tmp_path / "x"
    arguments = [
        "-m", "train", "fashion-resnet8", "--sparsity", "0.9", "--max-steps", "6", "--save-every", "2", "--threads",
        "1", "--device", "cpu", "--data", str(ROOT / "data/fashion-mnist"), "--out", str(out), "--evaluation",
        str(evaluation), "--json",
    ]  # fmt: skip
    process = subprocess.Popen(
        torchrun(*arguments, restarts=1), env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob(".x.training/state-*[24]")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    victims = [pid for pid in _children(process.pid) if pid != process.pid]
    os.kill(victims[-1], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()[-2000:]
    document = json.loads(stdout)
    assert (document["steps"], document["world_size"]) == (6, 2)
    log = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert log == [2, 4, 6], "the log has no gap and no line twice"


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def test_processes_that_find_different_states_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.errors import UserError

    wanted = job()
    store = StateStore(tmp_path / "x")
    store.save(wanted.settings, 2, 1.0, State({}, {}))
    monkeypatch.setattr(World, "agree", lambda self, number, device: number != 2)
    with pytest.raises(UserError, match="different saved states"):
        run(wanted, tmp_path / "x", resume=True)
