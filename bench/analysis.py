"""From the raw samples of a session to the rows of the report."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from bench.cautions import cautions
from bench.intervals import Estimate, percentile, ratio
from bench.measurement import checkpoint_name, is_dense
from bench.pareto import front

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.measurement import ArtifactRecord, Measurement, Measurements

PERCENTILES = (0.5, 0.9)


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One artifact under one condition. Every report has these columns in this order.

    Attributes:
        sparsity: the target that the user gave; ``sparsity_achieved`` is what came out.
        accuracy: top-1 on the whole evaluation set, measured on the artifact.
        macs_dense: multiply-accumulates of one picture; ``macs_nonzero`` only those with a non-zero weight.
        latency_ms_p50: of one call, that is of a whole batch.
        speedup_vs_dense: against the fastest dense artifact of the recipe under the same condition: median over
            rounds of the ratio of the medians in a round, with the limits of its 95 % interval.
        resolution: the A/A pair's largest deviation from 1; a speed-up no farther from 1 is none.
        speedup_resolved: whether the speed-up, its interval included, is farther from 1 than the resolution.
        gflops_dense_equivalent: ``2 * macs_dense * batch_size / p50``: not work done, but work made unnecessary
            included. ``gflops_useful`` counts the non-zero MACs alone.
        base: whether this is the artifact against which the others' speed-up is given.
        pareto: whether no other artifact under this condition is both faster and at least as accurate.
    """

    recipe: str
    checkpoint: str
    method: str
    pattern: str
    sparsity: float
    sparsity_achieved: float
    accuracy: float | None
    macs_dense: int
    macs_nonzero: int
    backend: str
    batch_size: int
    threads: int
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_per_picture: float
    speedup_vs_dense: float | None
    speedup_low: float | None
    speedup_high: float | None
    resolution: float | None
    speedup_resolved: bool | None
    size_bytes: int
    peak_memory_bytes: int | None
    gflops_dense_equivalent: float
    gflops_useful: float
    base: bool
    pareto: bool
    artifact: str


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was to be measured and could not be; batch size and threads are 0 for an artifact that did not open."""

    name: str
    backend: str
    batch_size: int
    threads: int
    reason: str


class Analysis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a report says in numbers."""

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]


class _Context(msgspec.Struct, frozen=True):
    """What the rows of one group share; accuracy and memory by artifact, in this batch size and number of threads."""

    base: Measurement | None
    resolution: float | None
    accuracy: dict[str, float]
    memory: dict[str, float]


def analyse(session: Measurements) -> Analysis:
    """Derive the rows, failures and warnings of a session."""
    artifacts = {record.digest: record for record in session.artifacts}
    good = [m for m in session.measurements if m.failure is None]
    timed = [m for m in good if m.metric == "latency" and not m.control]
    rows: list[Row] = []
    for group in _groups(timed, artifacts):
        here = [m for m in good if m.batch_size == group[0].batch_size]
        context = _Context(
            base=_base(group, artifacts),
            resolution=resolution_of(good, group[0].batch_size, group[0].threads),
            # whatever number of threads: the bits are the same, and it is measured with one number alone
            accuracy={m.artifact: m.samples[0][0] for m in here if m.metric == "accuracy"},
            memory={
                m.artifact: m.samples[0][0] for m in here if m.metric == "memory" and m.threads == group[0].threads
            },
        )
        made = [_row(m, artifacts[m.artifact], context) for m in group]
        rows += _mark_front(made)
    rows.sort(key=_order)
    return Analysis(
        rows=tuple(rows), failures=tuple(_failures(session, artifacts)), warnings=tuple(cautions(session, rows))
    )


def resolution_of(measurements: Iterable[Measurement], batch_size: int, threads: int) -> float | None:
    """How far the 95 % interval of the A/A pair's ratio reaches from 1; ``None`` without a pair."""
    here = [
        m
        for m in measurements
        if (m.batch_size, m.threads, m.metric) == (batch_size, threads, "latency") and m.failure is None
    ]
    for control in here:
        if control.control:
            for twin in here:
                if twin.artifact == control.artifact and not twin.control:
                    pair = ratio(twin.samples, control.samples)
                    return max(abs(pair.low - 1), abs(pair.high - 1))
    return None


def is_resolved(speedup: Estimate, resolution: float | None) -> bool | None:
    """Whether a speed-up differs from 1 by more than the run can tell apart; ``None`` if that is not known."""
    if resolution is None:
        return None
    return speedup.low > 1 + resolution or speedup.high < 1 - resolution


def _groups(timed: Sequence[Measurement], artifacts: dict[str, ArtifactRecord]) -> Iterable[list[Measurement]]:
    """Measurements that may be compared: one recipe, one batch size, one number of threads."""
    groups: dict[tuple[str, int, int], list[Measurement]] = {}
    for m in timed:
        groups.setdefault((artifacts[m.artifact].lineage.recipe, m.batch_size, m.threads), []).append(m)
    return groups.values()


def _base(group: Sequence[Measurement], artifacts: dict[str, ArtifactRecord]) -> Measurement | None:
    dense = [m for m in group if is_dense(artifacts[m.artifact])]
    return min(dense, key=lambda m: percentile(_pooled(m), 0.5), default=None)


def _row(m: Measurement, record: ArtifactRecord, around: _Context) -> Row:
    p50, p90 = (percentile(_pooled(m), fraction) for fraction in PERCENTILES)
    speedup = None if around.base is None else ratio(around.base.samples, m.samples)
    lineage = record.lineage
    peak = around.memory.get(m.artifact)
    # 2 operations a MAC; per millisecond, so 1e6 of them a second are 1e-6 GFLOP per ms
    gflops_per_mac = 2 * m.batch_size / p50 / 1e6
    return Row(
        recipe=lineage.recipe,
        checkpoint=checkpoint_name(record),
        method=lineage.method,
        pattern=lineage.pattern,
        sparsity=lineage.target_sparsity,
        sparsity_achieved=lineage.sparsity,
        accuracy=around.accuracy.get(m.artifact),
        macs_dense=record.macs_dense,
        macs_nonzero=record.macs_nonzero,
        backend=record.backend,
        batch_size=m.batch_size,
        threads=m.threads,
        latency_ms_p50=p50,
        latency_ms_p90=p90,
        latency_ms_per_picture=p50 / m.batch_size,
        speedup_vs_dense=speedup.value if speedup else None,
        speedup_low=speedup.low if speedup else None,
        speedup_high=speedup.high if speedup else None,
        resolution=around.resolution,
        speedup_resolved=is_resolved(speedup, around.resolution) if speedup and m is not around.base else None,
        size_bytes=record.size_bytes,
        peak_memory_bytes=None if peak is None else int(peak),
        gflops_dense_equivalent=record.macs_dense * gflops_per_mac,
        gflops_useful=record.macs_nonzero * gflops_per_mac,
        base=m is around.base,
        pareto=False,
        artifact=m.artifact,
    )


def _mark_front(rows: Sequence[Row]) -> list[Row]:
    known = [row for row in rows if row.accuracy is not None]
    best = front([(row.latency_ms_p50, row.accuracy or 0.0) for row in known])
    marked = {known[index].artifact for index in best}
    return [msgspec.structs.replace(row, pareto=row.artifact in marked) for row in rows]


def _order(row: Row) -> tuple[object, ...]:
    condition = (row.recipe, row.batch_size, row.threads)
    return (*condition, row.method != "dense", row.method, row.pattern, row.sparsity, row.backend)


def _pooled(m: Measurement) -> list[float]:
    return list(chain.from_iterable(m.samples))


def _failures(session: Measurements, artifacts: dict[str, ArtifactRecord]) -> Iterable[Failure]:
    for refusal in session.refusals:
        yield Failure(name=refusal.name, backend="", batch_size=0, threads=0, reason=refusal.reason)
    for m in session.measurements:
        if m.failure is not None:
            record = artifacts[m.artifact]
            name = checkpoint_name(record) + (" (A/A control)" if m.control else "")
            yield Failure(name, record.backend, m.batch_size, m.threads, m.failure)
