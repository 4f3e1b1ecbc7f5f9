"""Where the time of a sparse network goes, layer by layer, beside that of the same network with dense weights."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Literal

import msgspec

from bench.measurement import is_dense

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench.measurement import ArtifactRecord, Measurements, Step
    from bench.report.analysis import Row

OTHER = "other steps"
"""Stands for all steps without weights: pooling, additions, changes of layout."""


class LayerTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer for a whole batch, in milliseconds; ``None`` where that network has no such layer or was not timed."""

    layer: str
    format: str
    density: float | None
    dense_ms: float | None
    sparse_ms: float | None


class Breakdown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sparse artifact under one condition.

    Attributes:
        dense_artifact: the dense artifact that it stands against, empty where none was timed step by step.
        source: ``steps``, timed in this session in the running network, medians; ``compiler``, timed by the compiler
            on the device, each layer alone in the fastest dense kernel and in the one it got.
    """

    artifact: str
    dense_artifact: str
    batch_size: int
    threads: int
    source: Literal["steps", "compiler"]
    layers: tuple[LayerTime, ...]


def breakdowns(session: Measurements, rows: Iterable[Row]) -> tuple[Breakdown, ...]:
    """Of every sparse row whose layers were timed."""
    records = {record.digest: record for record in session.artifacts}
    return tuple(found for row in rows for found in _of_row(session, records, row))


def _of_row(session: Measurements, records: dict[str, ArtifactRecord], row: Row) -> Iterator[Breakdown]:
    record = records[row.artifact]
    if is_dense(record):
        return
    timed = _steps(session, record.digest, row)
    if timed:
        yield _from_steps(session, records, row, timed)
    elif any(layer.chosen_us is not None for layer in record.layers):
        layers = tuple(
            LayerTime(layer.name, layer.format, layer.density, _milliseconds(layer.dense_us), _milliseconds(chosen))
            for layer in record.layers
            if (chosen := layer.chosen_us) is not None
        )
        yield Breakdown(record.digest, "", row.batch_size, row.threads, "compiler", layers)


def _from_steps(
    session: Measurements, records: dict[str, ArtifactRecord], row: Row, timed: Sequence[Step]
) -> Breakdown:
    record = records[row.artifact]
    twins = [
        (other.digest, steps)
        for other in session.artifacts
        if is_dense(other) and _kin(other) == _kin(record)
        if (steps := _steps(session, other.digest, row))
    ]
    dense_artifact, dense_steps = min(twins, key=lambda twin: sum(_by_layer(twin[1]).values()), default=("", []))
    sparse, dense = _by_layer(timed), _by_layer(dense_steps)
    entries = {layer.name: layer for layer in record.layers}
    names = [name for name in dict.fromkeys([*sparse, *dense]) if name != OTHER]
    if OTHER in sparse or OTHER in dense:
        names.append(OTHER)
    layers = tuple(
        LayerTime(
            layer=name,
            format=entries[name].format if name in entries else "",
            density=entries[name].density if name in entries else None,
            dense_ms=dense.get(name, 0.0 if name == OTHER and dense else None),
            sparse_ms=sparse.get(name, 0.0 if name == OTHER else None),
        )
        for name in names
    )
    return Breakdown(row.artifact, dense_artifact, row.batch_size, row.threads, "steps", layers)


def _kin(record: ArtifactRecord) -> tuple[str, str, str]:
    """What two artifacts share whose layers may stand side by side."""
    return record.engine, record.target.dtype, record.lineage.recipe


def _steps(session: Measurements, digest: str, row: Row) -> list[Step]:
    here = (digest, row.batch_size, row.threads)
    return [step for step in session.steps if (step.artifact, step.batch_size, step.threads) == here]


def _by_layer(steps: Iterable[Step]) -> dict[str, float]:
    """The sum of the medians of a layer's steps, in the order in which the layers run."""
    times: dict[str, float] = {}
    for step in steps:
        name = step.layer or OTHER
        times[name] = times.get(name, 0.0) + statistics.median(step.samples_ms)
    return times


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1000
