"""The rows of a sweep, and the table that is made of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from runtime.errors import UserError
from runtime.training_rows import SweepRow
from train.sweep_rows import FILE, read
from train.sweep_table import cells, markdown


def row(method: str, sparsity: float, seed: int, accuracy: float) -> SweepRow:
    pattern = "dense" if method == "dense" else "unstructured"
    return SweepRow(
        key=f"{method}{sparsity}{seed}", recipe="r", recipe_digest="d", options=(), method=method, pattern=pattern,
        target_sparsity=sparsity, sparsity=sparsity, seed=seed, accuracy=accuracy, loss=1.0 + seed, epochs=1.0, steps=1,
        seconds=10.0 * (seed + 1), jobs=1, weights_sha256="", device="cpu", processor="p", threads=1, commit="c",
        versions={},
    )  # fmt: skip


def test_table_by_hand() -> None:
    rows = [row("gmp", 0.9, 0, 0.6), row("st3", 0.9, 0, 0.7), row("st3", 0.9, 1, 0.8), row("st3", 0.9, 2, 0.9),
            row("dense", 0.0, 0, 0.95)]  # fmt: skip
    assert markdown(cells(rows)).splitlines()[2:] == [
        "| dense | dense | 0 | 0.0000 | 0.9500 | 1 | 1.0000 | 10 |",
        "| st3 | unstructured | 0.9 | 0.9000 | 0.8000 ± 0.1000 | 3 | 2.0000 | 20 |",
        "| gmp | unstructured | 0.9 | 0.9000 | 0.6000 | 1 | 1.0000 | 10 |",
    ]


def test_a_row_is_one_line_that_reads_back(tmp_path: Path) -> None:
    sweep_rows = [row("st3", 0.9, 0, 0.7), row("gmp", 0.9, 0, 0.6)]
    (tmp_path / FILE).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in sweep_rows))
    assert read(tmp_path) == sweep_rows
    (tmp_path / FILE).write_bytes(b"{}\n" + (tmp_path / FILE).read_bytes())
    with pytest.raises(UserError, match=r"sweep.jsonl is damaged .*give another --out"):
        read(tmp_path)
