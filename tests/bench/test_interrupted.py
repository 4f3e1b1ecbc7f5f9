"""What is left of a session that is interrupted or killed, and how it goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from bench_builders import invoke, make_artifact, make_three
from click.testing import CliRunner

from bench.machine.peaks import Capacity
from bench.measure import session
from bench.measure.command import bench, settings_for
from bench.measure.session import plan_session, resumable, run_session
from bench.measurement import Settings
from bench.measurement_file import measurements_of, part_of, read_measurements, read_records, set_aside
from runtime.errors import UserError

if TYPE_CHECKING:
    from bench.measure.session import Plan

pytest.importorskip("onnxruntime", reason="the small artifacts run in ONNX Runtime")


ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0  # others may be at work on this machine


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's peak takes seconds."""
    monkeypatch.setenv("CXX", "no-compiler")


class Interrupt:
    """Presses Ctrl-C at the first step whose text begins so."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, text: str) -> None:
        if text.startswith(self.text):
            raise KeyboardInterrupt


def plan_two(folder: Path, evaluation: Path) -> Plan:
    """Two batch sizes of one network."""
    for batch_size in (1, 32):
        if not (folder / f"dense-b{batch_size}").exists():
            make_artifact(folder / f"dense-b{batch_size}", "dense", 0.0, batch_size)
    return plan_session([folder], evaluation, [1], settings_for(2.0, 4, 0, launches=2))


def test_ctrl_c_keeps_every_finished_round_and_resume_measures_the_rest(tmp_path: Path, evaluation: Path) -> None:
    out = tmp_path / "m.jsonl"
    out.write_text("an older session")
    plan = plan_two(tmp_path / "a", evaluation)
    assert run_session(plan, out, Interrupt("batch 32, threads 1: round 3")) == 1
    assert out.read_text() == "an older session"
    before = read_measurements(part_of(out))
    assert before.end is None
    first, second = (
        next(m for m in before.measurements if (m.batch_size, m.metric, m.control) == (size, "latency", 0))
        for size in (1, 32)
    )
    assert (len(first.samples), len(second.samples)) == (4, 2)
    steps: list[str] = []
    assert run_session(plan, out, steps.append, resume=True) == 2
    assert not part_of(out).exists()
    after = read_measurements(out)
    assert after.end is not None
    assert after.end.complete
    # batch 1 was whole: nothing of it is measured again
    assert not [text for text in steps if text.startswith("batch 1,")]
    assert first in after.measurements
    joined = next(m for m in after.measurements if (m.batch_size, m.metric, m.control) == (32, "latency", 0))
    assert joined.samples[:2] == second.samples
    assert joined.launches == (0, 0, 1, 1)
    for size in (1, 32):
        assert len([m for m in after.measurements if (m.batch_size, m.metric) == (size, "accuracy")]) == 1


def test_ctrl_c_after_the_last_condition_leaves_what_only_has_to_be_ended(
    tmp_path: Path, evaluation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_artifact(tmp_path / "a/dense", "dense", 0.0, 1)
    out, shown = tmp_path / "m.jsonl", []

    def interrupt_at_the_end(cpu_sets: object, repetitions: int) -> Capacity:
        shown.append(cpu_sets)
        if len(shown) == 2:
            raise KeyboardInterrupt
        return Capacity(note="no compiler")

    monkeypatch.setattr(session, "measure_capacity", interrupt_at_the_end)
    arguments = [str(tmp_path / "a"), "--evaluation", str(evaluation), "--threads", "1", "--rounds", "1"]
    done = CliRunner().invoke(bench, [*arguments, "--out", str(out)])
    assert done.exit_code == 130
    assert "interrupted with 1 of 1 conditions finished" in done.stderr
    assert not out.exists()
    before = read_measurements(part_of(out))
    assert before.end is None
    invoke(bench, *arguments, "--resume", "--out", out)
    after = read_measurements(out)
    assert after.measurements == before.measurements
    assert after.end is not None
    assert after.end.complete


def test_ctrl_c_before_anything_is_finished_leaves_the_older_session(tmp_path: Path, evaluation: Path) -> None:
    out = tmp_path / "m.jsonl"
    out.write_text("an older session")
    assert run_session(plan_two(tmp_path / "a", evaluation), out, Interrupt("batch 1")) == 0
    assert out.read_text() == "an older session"
    assert not part_of(out).exists()


def test_what_is_resumed_must_be_the_same_session(tmp_path: Path, evaluation: Path) -> None:
    out = tmp_path / "m.jsonl"
    plan = plan_two(tmp_path / "a", evaluation)
    with pytest.raises(UserError, match=r"--resume: there is no .*m\.jsonl\.part, so nothing was interrupted"):
        resumable(plan, out)
    run_session(plan, out, Interrupt("batch 1, threads 1: round 2"))
    other = msgspec.structs.replace(plan, settings=Settings(rounds=99), entries=plan.entries[:1])
    with pytest.raises(UserError, match="the settings and the artifacts differ from those of"):
        resumable(other, out)
    # without --resume the interrupted session is set aside
    run_session(plan, out, Interrupt("batch 1, threads 1: round 2"))
    assert set_aside(out).exists()


WAITING_BENCH = """
import signal
import time
from bench.measure.command import bench
from bench.measurement import Round
from bench.measurement_file import Writer
write, rounds = Writer.write, []

def write_and_wait(self, records):
    records = list(records)
    write(self, records)
    rounds.extend(record for record in records if isinstance(record, Round))
    if len(rounds) == 3:
        time.sleep(600)

# a shell that runs the tests in the background has them ignore Ctrl-C, and what they start as well
signal.signal(signal.SIGINT, signal.default_int_handler)
Writer.write = write_and_wait
bench()
"""
"""It measures three rounds and waits for a signal."""


@pytest.mark.skipif(sys.platform != "linux", reason="workers end with a killed bench by a Linux signal")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_a_stopped_bench_goes_on_where_it_was(how: signal.Signals, tmp_path: Path, evaluation: Path) -> None:
    make_three(tmp_path / "a")
    out = tmp_path / "m.jsonl"
    arguments = [str(tmp_path / "a"), "--evaluation", str(evaluation), "--threads", "1", "--rounds", "8"]
    command = [sys.executable, "-c", WAITING_BENCH, *arguments, "--launches", "2"]
    process = subprocess.Popen(
        [*command, "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + PATIENCE_S
    while lines_of(part_of(out), b'"round"') < 3:
        assert time.monotonic() < deadline, "no round was finished"
        time.sleep(0.01)
    process.send_signal(how)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert not out.exists(), told
    before = latency_samples(part_of(out))
    assert len(before["dense-0"]) == 3
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume goes on" in told
    with part_of(out).open("ab") as stream:
        stream.write(b'{"type":"round","batch_size":1,"thr')  # as a kill in the midst of writing leaves it
    invoke(bench, *arguments, "--launches", 2, "--resume", "--out", out)
    after = latency_samples(out)
    for name, samples in before.items():
        assert after[name][: len(samples)] == samples
        assert len(after[name]) == 8


def lines_of(path: Path, text: bytes) -> int:
    return path.read_bytes().count(text) if path.exists() else 0


def latency_samples(path: Path) -> dict[str, tuple[tuple[float, ...], ...]]:
    session = measurements_of(read_records(path, cut_off=True))
    names = {record.digest: record.name for record in session.artifacts}
    return {names[m.artifact]: m.samples for m in session.measurements if m.metric == "latency" and not m.control}


@pytest.mark.skipif(sys.platform != "linux", reason="workers end with a killed bench by a Linux signal")
def test_a_killed_bench_keeps_its_records_and_leaves_no_worker(tmp_path: Path, evaluation: Path) -> None:
    make_three(tmp_path / "a")
    out = tmp_path / "m.jsonl"
    code = "from bench.measure.command import bench; bench()"
    arguments = [str(tmp_path / "a"), "--evaluation", str(evaluation), "--seconds", "60", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while len(workers_of(process.pid)) < 4:
            assert time.monotonic() < deadline, "four workers never came up"
            time.sleep(0.05)
        pids = workers_of(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while any(is_worker(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived the bench"
        time.sleep(0.05)
    assert not out.exists()
    session = read_measurements(out.with_name("m.jsonl.part"))
    assert len(session.artifacts) == 3


def is_worker(pid: int) -> bool:
    try:
        return b"bench.measure.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def workers_of(parent: int) -> list[int]:
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [int(pid) for pid in children if is_worker(int(pid))]
