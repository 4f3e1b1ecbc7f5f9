"""Describes a checkpoint for people and scripts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.data import sha256_of
from st3.checkpoint import INFO_FILE, load_checkpoint
from st3.reach import told

if TYPE_CHECKING:
    from rich.table import Table


def describe(folder: Path) -> dict[str, Any]:
    """``checkpoint.json`` as JSON-able data, with its digest and the sums that people ask for first."""
    info = load_checkpoint(folder).info
    totals = {
        "digest": sha256_of(folder / INFO_FILE),
        "prunable_weights": info.prunable,
        "nonzeros": sum(layer.nonzeros for layer in info.layers),
    }
    return {"kind": "checkpoint", **totals, **msgspec.to_builtins(info)}


def render(folder: Path) -> list[str | Table]:
    """Lines and a table for the terminal."""
    from rich.table import Table

    info = load_checkpoint(folder).info
    nonzeros = sum(layer.nonzeros for layer in info.layers)
    lines: list[str | Table] = [
        f"checkpoint {folder.resolve().name}: {info.recipe}, {info.method}, {info.pattern}, seed {info.seed}",
        f"top-1 {info.accuracy:.4f} on {info.evaluation}, loss {info.loss:.4f}",
        f"sparsity {info.sparsity:.4f} (target {info.target_sparsity:g}): {nonzeros:,} of {info.prunable:,} weights "
        f"non-zero",
        f"{info.epochs:g} epochs, {info.steps:,} steps of {info.batch_size} pictures on {info.device} "
        f"in {info.train_seconds:.1f} s, commit {info.commit[:12]}",
    ]
    if info.beyond:
        lines.append(told(info.prunable, info.beyond))
    table = Table("layer", "kind", "weight", "pattern", "non-zero", "density", "why dense", box=None)
    for layer in info.layers:
        table.add_row(
            layer.name,
            layer.kind,
            "x".join(map(str, layer.shape)),
            layer.pattern,
            f"{layer.nonzeros:,}",
            f"{layer.nonzeros / math.prod(layer.shape):.4f}",
            layer.reason,
        )
    return [*lines, table]
