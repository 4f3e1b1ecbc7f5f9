"""What can go wrong outside the program: a full disk, a request to stop, a second run, typing errors."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from click.testing import CliRunner, Result
from train_toy import fitted, job, run, same

from runtime.errors import UserError
from st3.checkpoint import load_checkpoint
from train.command import train
from train.lock import locked
from train.state import StateStore
from train.stop import Stop, stop_on_signals

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data/fashion-mnist"


def full(*arguments: object, **keywords: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_the_last_state_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    whole = run(job(), tmp_path / "whole")
    save = safetensors.torch.save_file

    def fills_up(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save(tensors, path)
        if len(list(path.parent.parent.glob("state-00000004"))):
            full()

    monkeypatch.setattr(safetensors.torch, "save_file", fills_up)
    with pytest.raises(UserError, match=r"after step 6 cannot be written.*No space left.*state-00000004 is kept"):
        run(job(), tmp_path / "x")
    names = sorted(path.name for path in (tmp_path / ".x.training").iterdir())
    assert names == ["log.jsonl", "state-00000004"], "what was half written is removed, which makes room"
    monkeypatch.undo()
    assert same(whole.state().tensors, run(job(), tmp_path / "x", resume=True).state().tensors)


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    home = tmp_path / "small"
    home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(home)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        (home / "filler").write_bytes(bytes(8192))
        with pytest.raises(UserError, match=r"cannot be written.*No space left"):
            StateStore(home / "x").save(job().settings, 2, 0.0, fitted(job(), tmp_path / "y").trainer.state())
    finally:
        subprocess.run(["umount", str(home)], check=True)


def test_the_log_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.progress._append", full)
    with pytest.raises(UserError, match=r"log\.jsonl cannot be written.*No space left.*--resume"):
        run(job(), tmp_path / "x")


def test_a_checkpoint_on_a_full_disk(tmp_path: Path, evaluation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = command(tmp_path, evaluation)
    monkeypatch.setattr("safetensors.torch.save_file", _only_states(tmp_path))
    result = call(arguments)
    assert isinstance(result.exception, UserError)
    assert "out cannot be written" in str(result.exception)
    assert "--resume" in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.training"], "no half checkpoint is left"
    monkeypatch.undo()
    # not a step is taken again: the state is that after the last one
    monkeypatch.setattr("train.trainer.Trainer.step", full)
    assert call([*arguments, "--resume"]).exit_code == 0
    assert load_checkpoint(tmp_path / "out").info.steps == 6


def _only_states(tmp_path: Path) -> object:
    import safetensors.torch

    save = safetensors.torch.save_file

    def writes(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if path.name != "tensors.safetensors":
            full()
        save(tensors, path)

    return writes


def command(tmp_path: Path, evaluation: Path, *more: str) -> list[str]:
    return [
        "fashion-resnet8", "--sparsity", "0.9", "--max-steps", "6", "--threads", "1", "--device", "cpu",
        "--data", str(DATA), "--out", str(tmp_path / "out"), "--evaluation", str(evaluation), *more,
    ]  # fmt: skip


def call(arguments: list[str]) -> Result:
    return CliRunner().invoke(train, arguments)


def test_a_stop_between_two_steps_saves_the_state(tmp_path: Path) -> None:
    from train.loop import fit
    from train.progress import Reporter
    from train.stop import StoppedError

    whole = run(job(), tmp_path / "whole")
    wanted = job(more={"save_every": None})
    store, stop = StateStore(tmp_path / "x"), Stop()
    with Reporter(store.log, "toy", 12) as reporter:
        report = reporter.start

        def start(step: int) -> None:
            report(step)
            stop.requested = True

        reporter.start = start
        with pytest.raises(StoppedError, match="after step 1 of 12"):
            fit(wanted, store, reporter, False, stop)
    found = store.load(wanted.settings)
    assert found is not None
    assert found[0].step == 1
    assert same(whole.state().tensors, run(wanted, tmp_path / "x", resume=True).state().tensors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_its_own_code(tmp_path: Path, evaluation: Path, number: signal.Signals) -> None:
    arguments = command(tmp_path, evaluation, "--save-every", "100000", "--epochs", "50")
    arguments[arguments.index("--max-steps") + 1] = "20000"
    process = subprocess.Popen(
        [sys.executable, "-m", "train", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    log = tmp_path / ".out.training/log.jsonl"
    deadline = time.monotonic() + 200
    while not (log.is_file() and log.read_bytes()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], stderr.decode()
    assert b"the state is saved, go on with --resume" in stderr
    assert b"Traceback" not in stderr
    assert len(list(tmp_path.glob(".out.training/state-*"))) == 1
    assert not (tmp_path / ".out.lock").exists()


def test_the_second_ctrl_c_does_not_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "Ctrl-C again stops at once" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_run_that_is_begun_afresh_is_set_aside(tmp_path: Path) -> None:
    kept = StateStore(tmp_path / "x").folder / "state-00000004"
    kept.mkdir(parents=True)
    (kept / "state.json").touch()
    run(job(), tmp_path / "x")
    assert (tmp_path / ".x.training.interrupted/state-00000004/state.json").exists()
    StateStore(tmp_path / "x").clear()
    assert not list(tmp_path.iterdir())


def test_what_is_no_checkpoint_is_never_replaced(tmp_path: Path, evaluation: Path) -> None:
    (tmp_path / "out/pictures").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    for out in ("out", "file"):
        arguments = command(tmp_path, evaluation)
        arguments[arguments.index("--out") + 1] = str(tmp_path / out)
        result = call(arguments)
        assert isinstance(result.exception, UserError), result.output
        assert "holds other things than a checkpoint" in str(result.exception) or "is no folder" in str(
            result.exception
        )
    assert (tmp_path / "out/pictures").is_dir()
    assert (tmp_path / "file").read_text() == "mine"


def test_two_runs_in_one_folder(tmp_path: Path, evaluation: Path) -> None:
    with locked(tmp_path / "out"):
        result = call(command(tmp_path, evaluation))
        assert isinstance(result.exception, UserError)
        assert f"another run (process {os.getpid()}) is training {tmp_path / 'out'}" in str(result.exception)
    assert not list(tmp_path.glob(".out*"))
    with locked(tmp_path / "out"):
        pass


KILLED = """
import os, pathlib, signal, sys, time
from train.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    ready, began = os.pipe()
    child = os.fork()
    if not child:
        os.write(began, b"x")  # fork has returned, so what is done after a fork is done
        time.sleep(60)
    os.read(ready, 1)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_of_a_killed_process_is_free_while_its_loader_workers_live(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "out"], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as printed:
        child = int(printed.readline())
    try:
        assert process.wait() == -signal.SIGKILL
        assert (tmp_path / ".out.lock").exists()
        with locked(tmp_path / "out"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--learning-rate", "30"],
            "--learning-rate 30 is 150 times the recipe's 0.2; give one within",
        ),
        (["--precision", "fp8"], "unknown precision 'fp8'; choose one of fp32, bf16, fp16"),
        (["--accumulate", "5"], "cannot be shared by 1 processes in 5 parts"),
        (["--validate", "60000"], "has 60000 training pictures in all"),
        (["--layer-sparsity", "conv"], "give NAME=VALUE"),
        (["--layer-sparsity", "conv=0.5", "--scope", "erk"], "contradict each other"),
        (["--teacher", "nowhere"], "nowhere is no checkpoint"),
        (["--init-from", "nowhere"], "nowhere is no checkpoint"),
        (["--init-from", "torchvision:ResNet5_Weights.V1"], "torchvision has no weights 'ResNet5_Weights.V1'"),
        (["--exempt", "stage1.0.conv3"], "stage1.0.conv1"),
        (["--batch-size", "60001"], "60000 training pictures do not fill a batch of 60001; give --batch-size 60000"),
    ],
)
def test_typing_errors_are_named_before_anything_is_trained(
    more: list[str], message: str, tmp_path: Path, evaluation: Path
) -> None:
    result = call(command(tmp_path, evaluation, *more))
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
