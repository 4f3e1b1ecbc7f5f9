"""Every session that the repository carries can be read, and says what it was measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench.measurement_file import read_measurements

RESULTS = sorted((Path(bench.__file__).parent / "results").glob("*.jsonl"))


def test_there_are_results() -> None:
    assert RESULTS


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_a_committed_session_is_whole(path: Path) -> None:
    measurements = read_measurements(path)
    assert measurements.session.environment.commit.removesuffix("-dirty") != "unknown"
    assert not measurements.session.environment.commit.endswith("-dirty")
    assert measurements.end is not None
