"""The whole pipeline through the command line, as small as it goes: every hand-off is a real folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from train_toy import FASHION, write_fashion_evaluation

from st3.cli import main


def call(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short runs, compiled, measured and reported."""
    out = tmp_path_factory.mktemp("run")
    write_fashion_evaluation(out / "evaluation", 2000)
    common = ["--data", FASHION, "--evaluation", out / "evaluation"]
    common += ["--device", "cpu", "--threads", 1, "--max-steps", 8]
    for name, options in (("dense", ["--method", "dense"]), ("st3-unstructured-0.9", ["--sparsity", 0.9])):
        call("train", "fashion-resnet8", *options, *common, "--out", out / "checkpoints" / name)
    checkpoints = sorted((out / "checkpoints").iterdir())
    call(
        "compile",
        *checkpoints,
        "--out",
        out / "artifacts",
        "--backend",
        "native",
        "--backend",
        "onnxruntime",
        "--no-tune",
    )
    call("check", out / "artifacts")
    measurements = out / "measurements.jsonl"
    call(
        "bench", out / "artifacts", "--evaluation", out / "evaluation", "--threads", 1, "--rounds", 4,
        "--launches", 2, "--out", measurements,
    )  # fmt: skip
    call("report", measurements, "--out", out)
    return out


def test_the_report_is_there_in_four_forms_with_the_same_rows(out: Path) -> None:
    rows = json.loads((out / "report.json").read_text())["rows"]
    with (out / "report.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert len(rows) == len(table) == 4
    needed = {
        "method", "pattern", "sparsity", "accuracy", "macs_dense", "macs_nonzero", "backend", "batch_size", "threads",
        "latency_ms_p50", "latency_ms_p90", "speedup_vs_dense", "size_bytes",
    }  # fmt: skip
    assert needed <= set(rows[0])
    assert needed <= set(table[0])
    assert (out / "report.md").read_text().count("native") >= 2
    assert "plotly" in (out / "report.html").read_text().lower()


def test_each_artifact_is_as_accurate_as_its_checkpoint(out: Path) -> None:
    accuracy = {}
    for folder in (out / "checkpoints").iterdir():
        info = json.loads(call("inspect", folder, "--json"))
        accuracy[info["method"]] = info["accuracy"]
    rows = json.loads((out / "report.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"dense", "st3"}
    for row in rows:
        assert row["accuracy"] == pytest.approx(accuracy[row["method"]], abs=0.001)


def test_zeros_are_counted(out: Path) -> None:
    rows = json.loads((out / "report.json").read_text())["rows"]
    for row in rows:
        if row["method"] == "dense":
            assert row["macs_nonzero"] == row["macs_dense"]
        else:
            assert row["macs_nonzero"] < 0.4 * row["macs_dense"]
            assert row["sparsity"] == pytest.approx(0.9)


def test_a_picture_of_the_evaluation_set_runs(out: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    images = np.load(out / "evaluation/images.npy", mmap_mode="r")
    Image.fromarray(np.asarray(images[0, 0])).save(tmp_path / "boot.png")
    for artifact in sorted((out / "artifacts").glob("*/native-b1")):
        rows = json.loads(call("run", artifact, tmp_path / "boot.png", "--top", 2, "--json"))
        assert len(rows) == 1
        assert len(rows[0]) == 2
