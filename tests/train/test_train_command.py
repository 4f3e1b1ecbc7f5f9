"""``python -m train`` as a user runs it, and kills it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.errors import UserError
from st3.checkpoint import load_checkpoint
from train.command import train

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data/fashion-mnist"


def command(out: Path, evaluation: Path, *more: str) -> list[str]:
    return [
        "fashion-resnet8", "--sparsity", "0.9", "--max-steps", "12", "--save-every", "2", "--threads", "1", "--device",
        "cpu", "--data", str(DATA), "--out", str(out), "--evaluation", str(evaluation), *more,
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "train", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def test_killed_and_resumed_gives_the_same_weights(tmp_path: Path, evaluation: Path) -> None:
    whole = CliRunner().invoke(train, command(tmp_path / "whole", evaluation), catch_exceptions=False)
    assert whole.exit_code == 0
    victim = start(command(tmp_path / "killed", evaluation))
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob(".killed.training/state-*[24]")) and time.monotonic() < deadline:
        assert victim.poll() is None
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait(timeout=60)
    assert not (tmp_path / "killed").exists()
    resumed = start(command(tmp_path / "killed", evaluation, "--resume", "--json"))
    stdout, _ = resumed.communicate(timeout=200)
    document = json.loads(stdout)
    assert resumed.returncode == 0
    assert document["steps"] == 12
    first, second = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "killed")
    # the digest of the weight file: every bit
    assert first.info.files["weights.safetensors"] == second.info.files["weights.safetensors"]
    assert first.info.accuracy == second.info.accuracy == document["accuracy"]
    assert second.info.sparsity == pytest.approx(0.9, abs=1e-5)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    assert steps == list(range(2, 13, 2))
    assert not list(tmp_path.glob(".*")), "the resume state is gone"

    again = CliRunner().invoke(train, command(tmp_path / "killed", evaluation, "--resume"))
    assert again.exit_code == 0
    assert "already complete" in again.output
    other = CliRunner().invoke(train, command(tmp_path / "killed", evaluation, "--resume", "--seed", "1"))
    assert isinstance(other.exception, UserError)
    assert "seed 0 (asked for 1)" in str(other.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist"], "unknown recipe 'mnist'; choose one of cifar10-resnet20, cifar10-vgg19"),
        (["fashion-resnet8", "--method", "magic"], "unknown method 'magic'; choose one of dense"),
        (["fashion-resnet8"], "needs a sparsity"),
        (["fashion-resnet8", "--sparsity", "90"], "90 % is 0.9"),
        (["fashion-resnet8", "--pattern", "2:4", "--sparsity", "0.9"], "has sparsity 0.5, got 0.9"),
        (["fashion-resnet8", "--method", "dense", "--sparsity", "0.9"], "dense prunes nothing"),
        (["cifar10-resnet20", "--sparsity", "0.9", "--data", "nowhere"], "cifar-10-binary.tar.gz"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        train, [*arguments, "--out", str(out), "--evaluation", str(tmp_path / "e"), "--max-steps", "1",
                *(() if "--data" in arguments else ("--data", str(DATA)))]
    )  # fmt: skip
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)
    assert not out.exists()


def test_module_prints_the_mistake_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "mnist"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: unknown recipe 'mnist'")
    assert "Traceback" not in done.stderr
