"""Which layers of the sparse artifacts were not run sparse, and why: what the compiler wrote down, gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bench.measurement import is_dense
from bench.naming import checkpoint_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.measurement import ArtifactRecord


class LayerRefusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layers of one checkpoint in one backend that stayed dense for the same reason.

    Attributes:
        macs_share: the share of the network's dense MACs that these layers have.
        densities: the lowest and the highest density of their weights.
    """

    checkpoint: str
    backend: str
    dtype: str
    architecture: str
    batch_sizes: tuple[int, ...]
    layers: tuple[str, ...]
    densities: tuple[float, float]
    macs_share: float
    reason: str


def layer_refusals(artifacts: Iterable[ArtifactRecord]) -> tuple[LayerRefusal, ...]:
    """What was refused, artifact by artifact, the layers with the most work first.

    Artifacts that differ in nothing but the batch size share a line where they were refused the same.
    """
    merged: dict[tuple[tuple[str, str, str, str], tuple[str, ...], str], LayerRefusal] = {}
    for record in artifacts:
        if not is_dense(record):
            for refusal in _of(record):
                artifact = (refusal.checkpoint, refusal.backend, refusal.dtype, refusal.architecture)
                key = (artifact, refusal.layers, refusal.reason)
                sizes = set(refusal.batch_sizes) | set(merged[key].batch_sizes if key in merged else ())
                merged[key] = msgspec.structs.replace(refusal, batch_sizes=tuple(sorted(sizes)))
    order = {key[0]: None for key in merged}
    return tuple(
        refusal
        for artifact in order
        for refusal in sorted(
            (refusal for key, refusal in merged.items() if key[0] == artifact), key=lambda found: -found.macs_share
        )
    )


def runs_dense(format_name: str) -> bool:
    """Whether a layer of this format computes its zeros: ``dense``, ``dense 1`` (a GPU's), ``dense_channels``."""
    return format_name.startswith("dense")


def _of(record: ArtifactRecord) -> Iterable[LayerRefusal]:
    dense = [layer for layer in record.layers if runs_dense(layer.format)]
    total = sum(layer.macs_dense for layer in record.layers)
    for reason in dict.fromkeys(layer.reason for layer in dense):
        layers = [layer for layer in dense if layer.reason == reason]
        densities = [layer.density for layer in layers]
        yield LayerRefusal(
            checkpoint=checkpoint_name(record),
            backend=record.backend,
            dtype=record.target.dtype,
            architecture=record.target.architecture,
            batch_sizes=record.target.sizes,
            layers=tuple(layer.name for layer in layers),
            densities=(min(densities), max(densities)),
            macs_share=sum(layer.macs_dense for layer in layers) / total if total else 0.0,
            reason=reason,
        )
