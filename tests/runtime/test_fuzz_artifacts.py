"""Thousands of damaged artifacts, checkpoints and files, in processes whose memory is limited: see fuzz_artifact.py."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux counts it")

ROOT = Path(__file__).resolve().parents[2]


def fuzz(kind: str, examples: int, limit_s: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fuzz_artifact.py")), kind, str(examples)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout) if done.stdout else {}


@pytest.mark.parametrize(("kind", "examples"), [("artifact", 200), ("checkpoint", 15)])
def test_some_hundred_damages_are_refused_in_one_line_or_run_right(kind: str, examples: int) -> None:
    counts = fuzz(kind, examples, 300)
    assert counts["cases"] >= examples
    assert counts["refused"] > examples / 2


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kind", "examples"), [("artifact", 10_000), ("checkpoint", 500)])
def test_ten_thousand_damages(kind: str, examples: int) -> None:
    counts = fuzz(kind, examples, 3600)
    assert counts["cases"] >= examples
    assert counts["max_rss_mb"] < 2048


@pytest.mark.exhaustive
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: pip install atheris")
def test_coverage_guided() -> None:
    fuzz("atheris", 50_000, 1800)
