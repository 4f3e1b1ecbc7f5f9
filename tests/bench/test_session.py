"""A whole session with small real artifacts, through the two commands; and what is left when it is interrupted."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from bench_builders import make_artifact
from click.testing import CliRunner

from bench.environment import describe, usable_cpus
from bench.measure.command import bench, settings_for
from bench.measure.session import plan_session, resumable, run_session
from bench.measurement import Settings
from bench.measurement_file import measurements_of, part_of, read_measurements, read_records, set_aside
from bench.report.command import report
from runtime.errors import UserError

if TYPE_CHECKING:
    from bench.measure.session import Plan

pytest.importorskip("onnxruntime", reason="the small artifacts run in ONNX Runtime")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's peak takes seconds; only the session of ``measured``, which is set up before, has it."""
    monkeypatch.setenv("CXX", "no-compiler")


def make_three(folder: Path, batch_size: int = 1) -> Path:
    make_artifact(folder / "dense" / f"onnxruntime-b{batch_size}", "dense", 0.0, batch_size, hidden=4000)
    make_artifact(folder / "st3-0.9" / f"onnxruntime-b{batch_size}", "st3", 0.9, batch_size, hidden=400)
    make_artifact(folder / "st3-0.95" / f"onnxruntime-b{batch_size}", "st3", 0.95, batch_size, hidden=8)
    return folder


def invoke(command: Any, *arguments: object) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, evaluation: Path) -> Path:
    """A finished session of three good artifacts, one whose model is broken, and one folder that is no artifact."""
    folder = tmp_path_factory.mktemp("session")
    make_three(folder / "artifacts", batch_size=32)
    make_artifact(folder / "artifacts/gmp/onnxruntime-b32", "gmp", 0.9, 32, broken="no model")
    (folder / "artifacts/foreign").mkdir()
    (folder / "artifacts/foreign/manifest.json").write_text('{"schema_version": 99}')
    out = folder / "measurements.jsonl"
    options = ("--threads", 1, "--rounds", 6, "--launches", 3, "--out", out)
    text = invoke(bench, folder / "artifacts", "--evaluation", evaluation, *options)
    assert "st3-unstructured-0.95" in text
    assert text.rstrip().endswith(f"measurements: {out}")
    return out


def test_a_session_from_artifacts_to_rows(measured: Path) -> None:
    session = read_measurements(measured)
    assert session.end is not None
    assert session.end.complete
    document = json.loads(invoke(report, measured, "--json"))
    rows = {row["checkpoint"]: row for row in document["rows"]}
    assert set(rows) == {"dense", "st3-unstructured-0.9", "st3-unstructured-0.95"}
    assert rows["dense"]["base"] is True
    assert rows["dense"]["speedup_vs_dense"] == 1
    # 500 times fewer operations: this must be seen through any noise
    assert rows["st3-unstructured-0.95"]["speedup_low"] > 1.2
    assert rows["st3-unstructured-0.95"]["accuracy"] == 0.9
    assert rows["dense"]["accuracy"] < 0.9
    assert rows["dense"]["peak_memory_bytes"] > rows["dense"]["size_bytes"] > 0
    assert rows["dense"]["resolution"] is not None
    reasons = {failure["name"]: failure["reason"] for failure in document["failures"]}
    assert "schema 99" in reasons["artifacts/foreign"]
    assert "payload/model.onnx is no ONNX file" in reasons["gmp-unstructured-0.9"]
    if sys.platform == "linux":
        assert {m.cpus for m in session.measurements if m.failure is None} == {usable_cpus()[:1]}


def test_the_files_agree_row_by_row(measured: Path, tmp_path: Path) -> None:
    text = invoke(report, measured, "--out", tmp_path)
    assert text.rstrip().endswith(f"report: {tmp_path / 'report.html'} (also .md, .csv, .json)")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"report.{s}" for s in ("csv", "html", "json", "md")]
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    with (tmp_path / "report.csv").open() as stream:
        for row, read in zip(rows, csv.DictReader(stream), strict=True):
            assert list(row) == list(read)
            for key, value in row.items():
                assert read[key] == (
                    "" if value is None else str(value).lower() if value in (True, False) else str(value)
                ), key
    results = (tmp_path / "report.md").read_text().split("## Results")[1].split("##")[0]
    lines = [line for line in results.split("\n") if line.startswith("|")]
    names = [name.strip() for name in lines[0].strip("|").split("|")]
    assert len(lines) == 2 + len(rows)
    for row, line in zip(rows, lines[2:], strict=True):
        cells = dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        for name, key in (
            ("Method", "method"),
            ("Backend", "backend"),
            ("Batch", "batch_size"),
            ("Threads", "threads"),
        ):
            assert cells[name] == str(row[key])
        for name, key, half_a_digit in (("Accuracy", "accuracy", 5e-5), ("p50, ms", "latency_ms_p50", 5e-2)):
            assert abs(float(cells[name]) - row[key]) <= half_a_digit


def test_a_session_names_no_host_no_user_and_no_path(measured: Path) -> None:
    text = measured.read_text()
    assert str(measured.parent) not in text
    assert str(Path.home()) + "/" not in text
    node = os.uname().nodename
    assert f'"{node}"' not in text
    environment = describe()
    assert environment.machine.usable_cpus == len(usable_cpus())
    assert environment.packages["numpy"]


def test_an_artifact_given_twice_is_measured_once(measured: Path, evaluation: Path) -> None:
    folder = measured.parent / "artifacts"
    plan = plan_session([folder, folder / "dense"], evaluation, [1], Settings())
    assert len(plan.entries) == 4


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


@pytest.mark.skipif(sys.platform != "linux", reason="workers end with a killed bench by a Linux signal")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_a_stopped_bench_goes_on_where_it_was(how: signal.Signals, tmp_path: Path, evaluation: Path) -> None:
    make_three(tmp_path / "a")
    out = tmp_path / "m.jsonl"
    arguments = [str(tmp_path / "a"), "--evaluation", str(evaluation), "--threads", "1", "--rounds", "6"]
    command = [sys.executable, "-c", "from bench.measure.command import bench; bench()", *arguments, "--launches", "2"]
    process = subprocess.Popen(
        [*command, "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 60
    while lines_of(part_of(out), b'"round"') < 2:
        assert time.monotonic() < deadline, "no round was finished"
        time.sleep(0.01)
    process.send_signal(how)
    _, told = process.communicate(timeout=30)
    assert not out.exists()
    before = latency_samples(part_of(out))
    assert 2 <= len(before["dense-0"]) <= 6
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume goes on" in told
    with part_of(out).open("ab") as stream:
        stream.write(b'{"type":"round","batch_size":1,"thr')  # as a kill in the midst of writing leaves it
    invoke(bench, *arguments, "--launches", 2, "--resume", "--out", out)
    after = latency_samples(out)
    for name, samples in before.items():
        assert after[name][: len(samples)] == samples
        assert len(after[name]) == 6


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
        deadline = time.monotonic() + 30
        while len(workers_of(process.pid)) < 4:
            assert time.monotonic() < deadline, "four workers never came up"
            time.sleep(0.05)
        pids = workers_of(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 10
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


@pytest.mark.parametrize(
    ("threads", "message"), [([0], "from 1 to"), ([100_000], "more threads than CPUs"), ([], "from 1 to")]
)
def test_impossible_thread_counts_are_refused(
    threads: list[int], message: str, tmp_path: Path, evaluation: Path
) -> None:
    with pytest.raises(UserError, match=message):
        plan_session([tmp_path], evaluation, threads, Settings())


def test_what_cannot_be_measured_is_refused_before_it_begins(tmp_path: Path, evaluation: Path) -> None:
    with pytest.raises(UserError, match=r"no artifact can be measured under .* no manifest.json was found"):
        plan_session([tmp_path], evaluation, [1], Settings())
    with pytest.raises(UserError, match="is no folder"):
        plan_session([tmp_path / "nowhere"], evaluation, [1], Settings())
    with pytest.raises(UserError, match="holds no evaluation set"):
        plan_session([tmp_path], tmp_path, [1], Settings())


def test_what_is_no_session_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")
    for out, message in (
        (tmp_path, f"is a folder; name a file in it, for instance {tmp_path / 'measurements.jsonl'}"),
        (tmp_path / "model.onnx", "is there and is no finished session"),
    ):
        result = CliRunner().invoke(bench, ["a", "--evaluation", "b", "--out", str(out)])
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"


def test_numbers_of_threads_may_have_commas(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--evaluation", "b", "--out", str(tmp_path / "m.jsonl"), "--threads"]
    result = CliRunner().invoke(bench, [*arguments, "1,5000"])
    assert "--threads 1 5000: this process may use" in str(result.exception)
    assert "is neither a number nor numbers with commas" in CliRunner().invoke(bench, [*arguments, "1;2"]).output


def test_options_become_rounds() -> None:
    assert settings_for(2.0, None, 0).rounds == 50
    assert settings_for(0.01, None, 0).rounds == 5
    assert settings_for(2.0, 7, 3).rounds == 7
    with pytest.raises(UserError, match="--seconds must be positive"):
        settings_for(0.0, None, 0)
    with pytest.raises(UserError, match="--rounds must be 1 or more"):
        settings_for(2.0, 0, 0)
