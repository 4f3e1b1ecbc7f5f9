"""What a method costs, measured in little: the figures of a row belong together."""

from __future__ import annotations

import json
import statistics

import pytest
from click.testing import CliRunner

from train.speed import main


def test_rows_of_a_short_measurement() -> None:
    command = "fashion-resnet8 --batch-size 4 --modes eager --device cpu --rounds 3 --window 0.01 --json --profile"
    result = CliRunner().invoke(main, command.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [row["method"] for row in rows] == ["dense", "dense again", "st3"]
    assert rows[0]["overhead_percent"] is None
    for row in rows:
        middle = statistics.median(row["windows_s"])
        assert len(row["windows_s"]) == 3
        assert row["step_ms"] == pytest.approx(1e3 * middle)
        assert 0 < row["issue_ms"] <= row["step_ms"]
        assert row["run_hours"] == pytest.approx(1.5 * 60_000 / 4 * middle / 3600)
    ratios = [mine / dense for mine, dense in zip(rows[2]["windows_s"], rows[0]["windows_s"], strict=True)]
    assert rows[2]["overhead_percent"] == pytest.approx(100 * (statistics.median(ratios) - 1))
    assert "eager st3, 5 steps" in result.stderr
    assert "convolution" in result.stderr
