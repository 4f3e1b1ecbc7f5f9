"""Twenty real sessions: two of them agree, the same artifact under two names is never two, and 5 % slower is seen.

``pytest -m exhaustive tests/bench/test_repeatable.py -s`` on a quiet machine, some five minutes; it prints its figures.
"""

from __future__ import annotations

import os
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from bench_builders import make_artifact

from bench.analysis import Row, analyse, latencies
from bench.launches import spread_of
from bench.measurement import Measurements, Settings
from bench.measurement_file import read_measurements
from bench.session import plan_session, run_session

pytest.importorskip("onnxruntime", reason="the small artifacts run in ONNX Runtime")

SESSIONS = 20
SETTINGS = Settings(rounds=50, launches=5, turn_s=0.02, warm_limit_s=0.3)
SLOWER = 1.05
HIDDEN = 20_000  # a call of about a millisecond
SLOW_DOWN = f"""
import time
import runtime.engine

load_into = runtime.engine.load_into

def slowed(key, artifact, threads):
    engine = load_into(key, artifact, threads)
    if artifact.manifest.name.startswith("gmp"):
        run = engine.run

        def slow(inputs):
            start = time.perf_counter()
            outputs = run(inputs)
            end = start + {SLOWER} * (time.perf_counter() - start)
            while time.perf_counter() < end:
                pass
            return outputs

        engine.run = slow
    return engine

runtime.engine.load_into = slowed
"""


def run_one(folder: Path, evaluation: Path) -> Measurements:
    """A session of an artifact, of its twin under another name (st3), and of a twin that is slowed down (gmp)."""
    plan = plan_session([folder / "artifacts"], evaluation, [1], SETTINGS)
    run_session(plan, folder / "m.jsonl", lambda text: None)
    return read_measurements(folder / "m.jsonl")


def rows_of(session: Measurements) -> dict[str, Row]:
    return {row.method: row for row in analyse(session).rows}


def overlap(one: Row, other: Row) -> bool:
    assert one.speedup_low is not None
    assert one.speedup_high is not None
    assert other.speedup_low is not None
    assert other.speedup_high is not None
    return one.speedup_low <= other.speedup_high and other.speedup_low <= one.speedup_high


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for method in ("dense", "st3", "gmp"):
        make_artifact(tmp_path / "artifacts" / method, method, 0.0 if method == "dense" else 0.9, hidden=HIDDEN)
    (tmp_path / "sitecustomize.py").write_text(SLOW_DOWN)
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("CXX", "no-compiler")  # the processor's peak is not what this is about
    return tmp_path


@pytest.mark.exhaustive
def test_twenty_sessions(folder: Path, evaluation: Path) -> None:
    sessions = [run_one(folder, evaluation) for _ in range(SESSIONS)]
    rows = [rows_of(session) for session in sessions]
    for number, (session, found) in enumerate(zip(sessions, rows, strict=True), start=1):
        spread = spread_of(latencies(session.measurements, 1, 1))
        assert spread is not None
        assert found["dense"].resolution is not None
        print(  # noqa: T201 - the figures are what it is run for
            f"{number:2}: {found['dense'].latency_ms_p50:.3f} ms, processes deviate by {spread.deviation:.2%}, "
            f"resolution {found['dense'].resolution:.2%}",
            *(
                f"{name} {row.speedup_vs_dense:.4f} [{row.speedup_low:.4f}, {row.speedup_high:.4f}] "
                f"{'different' if row.speedup_resolved else 'none'}"
                for name, row in found.items()
                if name != "dense"
            ),
            sep="; ",
        )
    assert [found["st3"].speedup_resolved for found in rows] == [False] * SESSIONS
    for name in ("st3", "gmp"):
        assert all(overlap(one[name], other[name]) for one, other in pairwise(rows))
    seen = [found["gmp"] for found in rows if found["gmp"].speedup_resolved]
    assert len(seen) >= 0.9 * SESSIONS
    assert statistics.median(row.speedup_vs_dense or 0 for row in seen) == pytest.approx(1 / SLOWER, abs=0.01)
