"""Describes an artifact for people and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.artifact import open_artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from runtime.artifact import LayerEntry, Manifest, TensorSpec


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
    """Lines and a table for the terminal, which rich draws."""
    from rich.table import Table

    lines, headings, rows = _parts(folder)
    table = Table(box=None)
    for heading in headings:
        table.add_column(heading, no_wrap=heading not in ("why", "kernels"))
    for row in rows:
        table.add_row(*row)
    return [*lines, table]


def plain_lines(folder: Path) -> list[str]:
    """The same without any package: lines whose columns stand below each other."""
    lines, headings, rows = _parts(folder)
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    table = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in (headings, *rows)]
    return ["".join(c if c.isprintable() else " " for c in line).rstrip() for line in (*lines, *table)]


def _parts(folder: Path) -> tuple[list[str], list[str], list[list[str]]]:
    """What is said of the whole, the layers' headings and their rows."""
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    lineage, target = manifest.lineage, manifest.target
    lines = [
        f"artifact {manifest.name}, digest sha256:{artifact.digest}, {artifact.size_bytes:,} bytes",
        f"runs on {target.device} ({target.architecture}, {target.dtype}) with the engine {manifest.engine}, "
        f"batch {' and '.join(map(str, target.sizes))}",
        f"from {lineage.recipe}: {lineage.method}, {lineage.pattern}, sparsity {lineage.sparsity:.4f}, "
        f"top-1 {'unknown' if lineage.accuracy is None else f'{lineage.accuracy:.4f}'}, commit {lineage.commit[:12]}",
        f"takes {_tensor(manifest.input)}, answers with {', '.join(map(_tensor, manifest.outputs))}",
        f"MACs per picture: {manifest.macs_dense:,} dense, {manifest.macs_nonzero:,} non-zero",
    ]
    on_gpu = target.device == "cuda"
    lines += _proof(manifest) if on_gpu else []
    columns = _COLUMNS | (_GPU_COLUMNS if on_gpu else {}) | {"why": lambda layer: layer.reason}
    return lines, list(columns), [[cell(layer) for cell in columns.values()] for layer in manifest.layers]


_COLUMNS: dict[str, Callable[[LayerEntry], str]] = {
    "layer": lambda layer: layer.name,
    "weight": lambda layer: "x".join(map(str, layer.weight_shape)),
    "pattern": lambda layer: layer.pattern,
    "density": lambda layer: f"{layer.density:.4f}",
    "MACs non-zero": lambda layer: f"{layer.macs_nonzero:,}",
    "format": lambda layer: layer.format,
}
_GPU_COLUMNS: dict[str, Callable[[LayerEntry], str]] = {
    "MACs used": lambda layer: _figure(layer.macs_usable, ","),
    "us dense": lambda layer: _figure(layer.dense_us, ".2f"),
    "us chosen": lambda layer: _figure(layer.chosen_us, ".2f"),
    "error": lambda layer: _figure(layer.error, ".1e"),
    "kernels": lambda layer: ", ".join(layer.kernels) or "-",
}


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {'x'.join(map(str, spec.shape))}"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _proof(manifest: Manifest) -> list[str]:
    """What was measured of the whole network, and what fewer bits cost."""
    lines = []
    proof = manifest.proof
    if proof is not None:
        where = f"measured on {proof.device}: " if proof.device else ""
        times = ", ".join(f"{name} {us:.1f} us" for name, us in proof.networks_us.items())
        lines.append(f"{where}{times}{'; ' if times and proof.note else ''}{proof.note}")
    lost = sum(layer.underflows or 0 for layer in manifest.layers)
    if manifest.target.dtype != "float32":
        lines.append(
            f"{lost:,} weights that are not zero become zero in {manifest.target.dtype}; answers may be "
            f"{manifest.tolerance.relative:.1e} of the largest off"
        )
    return lines
