"""`st3 sweep` with a trainer of seven lines, and once with the real one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from runtime.errors import UserError
from train import sweep_run
from train.sweep_command import sweep
from train.sweep_plan import Run, Sweep, command_of, plan_runs
from train.sweep_rows import FILE, read
from train.sweep_run import Outcome, Pace, run_sweep

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data/fashion-mnist"

TRAINER = '''
"""Stands in for `python -m train`: notes when it runs, obeys SIGTERM, fails or waits where the test says so."""
import json, os, pathlib, signal, sys, time
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
out = pathlib.Path(options["--out"])
state = out.with_name(f".{out.name}.training")
state.mkdir(parents=True, exist_ok=True)
notes = pathlib.Path(os.environ["NOTES"])
def note(what):
    with notes.open("a") as stream:
        stream.write(f"{what} {out.name} {time.monotonic()} {os.getpid()}\\n")
def stop(number, frame):
    (state / "saved").touch()
    note("stopped")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
resumed = (state / "saved").exists()
note("resumed" if resumed else "began")
if out.name in os.environ.get("FAIL", "").split(","):
    sys.exit("Error: the loss is nan at step 7")
while notes.read_text().count("began ") < int(os.environ.get("TOGETHER", "0")):
    time.sleep(0.01)
time.sleep(0.2 if resumed else float(os.environ.get("SECONDS", "0.2")))
out.mkdir(exist_ok=True)
sparsity, seed = float(options.get("--sparsity", 0)), int(options["--seed"])
print("a line before")
print(json.dumps({"checkpoint": str(out), "method": options["--method"], "pattern": options.get("--pattern", "dense"),
    "target_sparsity": sparsity, "sparsity": sparsity, "seed": seed, "accuracy": 0.5 + seed / 10, "loss": 1.0,
    "epochs": 1.0, "steps": 3, "train_seconds": 2.0, "device": "cpu", "threads": int(options["--threads"]),
    "commit": "c", "versions": {"torch": "2"}, "files": {"weights.safetensors": "d" * 64}, "more": 1}))
note("ended")
'''


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    path = tmp_path / "trainer.py"
    path.write_text(TRAINER)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return (sys.executable, str(path))


def notes(folder: Path) -> list[tuple[str, str, float, int]]:
    lines = (folder / "notes").read_text().splitlines() if (folder / "notes").exists() else []
    return [(what, name, float(when), int(pid)) for what, name, when, pid in (line.split() for line in lines)]


def a_sweep(out: Path, options: tuple[str, ...] = ()) -> Sweep:
    return Sweep("fashion-resnet8", "0" * 16, options, out, out / "evaluation", None, "cpu")


RUNS = plan_runs(["dense", "st3"], [0.9], [0, 1], "unstructured")
PACE = Pace(jobs=2, threads=1)


def silent(*arguments: object) -> None:
    """Watches nothing."""


def test_plan_has_dense_once_per_seed_and_one_seed_after_the_other() -> None:
    runs = plan_runs(["dense", "st3", "gmp"], [0.9, 0.95], [0, 1], "unstructured", ["st3:0.99", "st3:0.9"])
    assert [run.name for run in runs[:6]] == [
        "dense-seed0", "st3-unstructured-0.9-seed0", "st3-unstructured-0.95-seed0", "gmp-unstructured-0.9-seed0",
        "gmp-unstructured-0.95-seed0", "st3-unstructured-0.99-seed0",
    ]  # fmt: skip
    assert [run.seed for run in runs] == [0] * 6 + [1] * 6
    assert [run.name for run in plan_runs(["st3"], [], [3], "2:4")] == ["st3-2to4-0.5-seed3"]


@pytest.mark.parametrize(
    ("methods", "sparsities", "pattern", "more", "message"),
    [
        (["magic"], [0.9], "unstructured", [], "unknown method 'magic'"),
        (["st3"], [90], "unstructured", [], "90 % is 0.9"),
        (["st3"], [], "unstructured", [], "--sparsities: st3 needs fractions of zeros"),
        (["st3"], [0.9], "2:4", [], "has sparsity 0.5, got 0.9"),
        (["st3"], [0.9], "unstructured", ["st3"], "--add takes method:sparsity, for instance st3:0.99, got 'st3'"),
        ([], [0.9], "unstructured", [], "at least one run"),
    ],
)
def test_plan_names_mistakes(
    methods: list[str], sparsities: list[float], pattern: str, more: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan_runs(methods, sparsities, [0], pattern, more)


def test_command_gives_each_run_its_own_folder_and_the_shared_evaluation(tmp_path: Path) -> None:
    arguments = command_of(a_sweep(tmp_path, ("--epochs", "2")), Run("st3", "unstructured", 0.9, 1), 3)
    assert arguments == [
        "fashion-resnet8", "--method", "st3", "--seed", "1", "--pattern", "unstructured", "--sparsity", "0.9",
        "--out", str(tmp_path / "checkpoints/st3-unstructured-0.9-seed1"), "--evaluation",
        str(tmp_path / "evaluation"), "--device", "cpu", "--threads", "3", "--resume", "--json", "--epochs", "2",
    ]  # fmt: skip


def test_no_more_runs_at_a_time_than_jobs_and_each_result_is_written(
    tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOGETHER", "2")
    seen: list[tuple[int, int, int]] = []
    out = tmp_path / "out"
    outcome = run_sweep(
        a_sweep(out), RUNS, PACE, lambda active, ended, total: seen.append((len(active), ended, total)), trainer
    )
    assert outcome.failures == outcome.unfinished == ()
    assert {row.key for row in read(out)} == {a_sweep(out).key(run) for run in RUNS}
    events = sorted((when, 1 if what == "began" else -1) for what, _, when, _ in notes(tmp_path))
    running = [sum(change for _, change in events[: number + 1]) for number in range(len(events))]
    assert max(running) == 2
    assert max(active for active, _, _ in seen) == 2
    assert {total for _, _, total in seen} == {4}
    row = read(out)[0]
    assert (row.weights_sha256, row.threads, row.jobs, row.options) == ("d" * 64, 1, 2, ())
    assert row.processor
    assert not list((out / "logs").iterdir()), "a good run leaves no log"
    assert len(list((out / "checkpoints").glob("[!.]*"))) == 4


def test_one_bad_run_is_reported_and_does_not_stop_the_others(
    tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "dense-seed0")
    outcome = run_sweep(a_sweep(tmp_path / "out"), RUNS, PACE, silent, trainer)
    assert [(failure.name, failure.code) for failure in outcome.failures] == [("dense-seed0", 1)]
    assert outcome.failures[0].reason == "Error: the loss is nan at step 7"
    assert len(read(tmp_path / "out")) == 3


def test_time_budget_stops_the_runs_and_the_same_sweep_goes_on(
    tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", "600")
    out = tmp_path / "out"

    def clock() -> float:
        """Two hours later as soon as both runs have begun."""
        return time.monotonic() + 7200 * (len(notes(tmp_path)) > 1)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_run, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
        outcome = run_sweep(a_sweep(out), RUNS, Pace(2, 1, budget=3600), silent, trainer)
    assert sorted(outcome.unfinished) == sorted(run.name for run in RUNS)
    assert [what for what, *_ in notes(tmp_path)] == ["began", "began", "stopped", "stopped"]
    monkeypatch.setenv("SECONDS", "0")
    outcome = run_sweep(a_sweep(out), RUNS, Pace(2, 1, keep_checkpoints=False), silent, trainer)
    assert len(outcome.rows) == 4
    assert [what for what, *_ in notes(tmp_path)].count("resumed") == 2
    assert not list((out / "checkpoints").glob("[!.]*")), "only the rows are kept"


SCRIPT = """
import sys, pathlib
sys.path[:0] = {paths!r}
from test_sweep import PACE, RUNS, a_sweep, silent
from train.sweep_run import run_sweep
outcome = run_sweep(a_sweep(pathlib.Path({out!r})), RUNS, PACE, silent, {trainer!r})
print(len(outcome.rows), len(outcome.unfinished), len(outcome.failures))
"""


def start_sweep(out: Path, trainer: tuple[str, ...]) -> subprocess.Popen[str]:
    script = SCRIPT.format(paths=[str(ROOT), str(Path(__file__).parent)], out=str(out), trainer=trainer)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(folder: Path, count: int, what: str = "began") -> None:
    deadline = time.monotonic() + 60
    while [note[0] for note in notes(folder)].count(what) < count:
        assert time.monotonic() < deadline, notes(folder)
        time.sleep(0.05)


def test_runs_of_a_killed_sweep_stop_and_are_resumed(
    tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", "60")
    out = tmp_path / "out"
    victim = start_sweep(out, trainer)
    wait_for(tmp_path, 2)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    wait_for(tmp_path, 2, "stopped")
    monkeypatch.setenv("SECONDS", "0")
    with (out / FILE).open("ab") as stream:
        stream.write(b'{"key": "half a li')
    assert read(out) == []
    outcome = run_sweep(a_sweep(out), RUNS, PACE, silent, trainer)
    assert len(outcome.rows) == len(read(out)) == 4
    assert [what for what, *_ in notes(tmp_path)].count("resumed") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_sweep_lets_its_runs_save(
    number: signal.Signals, tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", "60")
    process = start_sweep(tmp_path / "out", trainer)
    wait_for(tmp_path, 2)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert printed.split() == ["0", "4", "0"]
    assert [what for what, *_ in notes(tmp_path)].count("stopped") == 2


def test_two_sweeps_do_not_share_a_folder(
    tmp_path: Path, trainer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", "60")
    monkeypatch.setattr(sweep_run, "GRACE_SECONDS", 0.5)
    first = start_sweep(tmp_path / "out", trainer)
    wait_for(tmp_path, 2)
    with pytest.raises(UserError, match="another sweep, or a run of one that was killed, is at work in"):
        run_sweep(a_sweep(tmp_path / "out"), RUNS, PACE, silent, trainer)
    first.terminate()
    first.communicate(timeout=60)


def arguments(out: Path, *more: str) -> list[str]:
    return ["fashion-resnet8", "--methods", "dense,st3", "--sparsities", "0.9", "--data", str(DATA), "--device", "cpu",
            "--out", str(out), *more]  # fmt: skip


def test_dry_run_says_what_is_done(tmp_path: Path) -> None:
    result = CliRunner().invoke(sweep, arguments(tmp_path, "--seeds", "0,1", "--dry-run"), catch_exceptions=False)
    assert result.output.splitlines()[0] == "to do     dense-seed0"
    assert result.output.splitlines()[-1] == f"4 of 4 runs to do on the cpu, in {tmp_path}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--", "--seed", "3"], "--seed cannot stand behind --"),
        (["--", "--out=x"], "--out cannot stand behind --"),
        (["--jobs", "many"], "--jobs takes a number of runs at a time, or auto, got 'many'"),
        (["--seeds", "0,x"], "--seeds takes numbers with commas between them, got 'x'"),
    ],
)
def test_mistakes_are_named(more: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(sweep, arguments(tmp_path, *more))
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)


def test_real_runs_are_done_once_and_not_mixed_with_others(tmp_path: Path, evaluation: Path) -> None:
    shutil.copytree(evaluation, tmp_path / "evaluation")
    training = ["--", "--max-steps", "2"]
    first = CliRunner().invoke(sweep, arguments(tmp_path, "--json", *training), catch_exceptions=False)
    assert first.exit_code == 0, first.output
    table = json.loads(first.stdout)["table"]
    assert [(cell["method"], cell["runs"]) for cell in table] == [("dense", 1), ("st3", 1)]
    assert table[1]["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert (tmp_path / "checkpoints/st3-unstructured-0.9-seed0/checkpoint.json").is_file()
    before = (tmp_path / FILE).read_bytes()
    again = CliRunner().invoke(sweep, arguments(tmp_path, *training), catch_exceptions=False)
    assert again.exit_code == 0
    assert "2 of 2 runs are finished" in again.output
    assert (tmp_path / FILE).read_bytes() == before
    other = CliRunner().invoke(sweep, arguments(tmp_path, "--", "--max-steps", "3"))
    assert isinstance(other.exception, UserError)
    assert "holds runs of fashion-resnet8" in str(other.exception)


def test_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = sweep_run.Failure("dense-seed0", 1, "Error: x")
    for outcome, code in (
        (Outcome((), (failed,), ("st3-unstructured-0.9-seed0",)), 1),
        (Outcome((), (), ("dense-seed0",)), 3),
    ):
        monkeypatch.setattr("train.sweep_command._train", lambda *_, outcome=outcome: outcome)
        result = CliRunner().invoke(sweep, arguments(tmp_path), catch_exceptions=False)
        assert result.exit_code == code
    assert "the same command goes on" in result.output
