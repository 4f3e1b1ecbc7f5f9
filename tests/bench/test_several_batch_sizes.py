"""An artifact of several batch sizes is measured at each of them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from bench_builders import CLASSES, PREPROCESSING, SHAPE, lineage
from click.testing import CliRunner
from support import Compiler
from torch import nn

from bench.measure.command import bench
from bench.measurement_file import read_measurements
from bench.report.write import write_report
from runtime.artifact import list_files, write_manifest


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    built = Compiler(tmp_path).artifact(module, SHAPE, (1, 4))
    manifest = msgspec.structs.replace(
        built.manifest,
        lineage=lineage("dense", 0.0),
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        files=list_files(built.folder),
    )
    write_manifest(built.folder, manifest)
    return built.folder


def test_each_size_is_a_condition_with_its_own_figures(artifact: Path, evaluation: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.jsonl"
    arguments = [str(artifact), "--evaluation", str(evaluation), "--threads", "1", "--rounds", "2", "--out", str(out)]
    result = CliRunner().invoke(bench, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert not document["failures"]
    rows = {row["batch_size"]: row for row in document["rows"]}
    assert set(rows) == {1, 4}
    # the same network, so the same answers on all 70 pictures, and the last batch of four is short
    assert rows[1]["accuracy"] == rows[4]["accuracy"]
    assert all(row["peak_memory_bytes"] > 0 and row["base"] for row in rows.values())
    (record,) = read_measurements(out).artifacts
    assert record.target.sizes == (1, 4)
    write_report(read_measurements(out), out.name, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert 'data-batch="1 4"' in page
    assert "native, batch 1 and 4" in page
