"""Describes an artifact for people and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.artifact import open_artifact

if TYPE_CHECKING:
    from rich.table import Table


def describe(folder: Path) -> dict[str, Any]:
    """The manifest as JSON-able data, with the sums that people ask for first."""
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    totals = {
        "digest": artifact.digest,
        "size_bytes": artifact.size_bytes,
        "macs_dense": manifest.macs_dense,
        "macs_nonzero": manifest.macs_nonzero,
    }
    return {"kind": "artifact", **totals, **msgspec.to_builtins(manifest)}


def render(folder: Path) -> list[str | Table]:
    """Lines and a table for the terminal."""
    from rich.table import Table

    artifact = open_artifact(folder)
    manifest = artifact.manifest
    lineage, target = manifest.lineage, manifest.target
    lines: list[str | Table] = [
        f"artifact {manifest.name}, digest {artifact.digest[:12]}, {artifact.size_bytes:,} bytes",
        f"runs on {target.device} ({target.architecture}, {target.dtype}) with the engine {manifest.engine}, "
        f"batch {' and '.join(map(str, target.sizes))}",
        f"from {lineage.recipe}: {lineage.method}, {lineage.pattern}, sparsity {lineage.sparsity:.4f}, "
        f"top-1 {'unknown' if lineage.accuracy is None else f'{lineage.accuracy:.4f}'}, commit {lineage.commit[:12]}",
        f"MACs per picture: {manifest.macs_dense:,} dense, {manifest.macs_nonzero:,} non-zero",
    ]
    table = Table(box=None)
    for heading in ("layer", "weight", "pattern", "density", "MACs non-zero", "format", "why"):
        table.add_column(heading, no_wrap=heading != "why")
    for layer in manifest.layers:
        table.add_row(
            layer.name,
            "x".join(map(str, layer.weight_shape)),
            layer.pattern,
            f"{layer.density:.4f}",
            f"{layer.macs_nonzero:,}",
            layer.format,
            layer.reason,
        )
    return [*lines, table]
