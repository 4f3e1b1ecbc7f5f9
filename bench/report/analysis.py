"""From the raw samples of a session to the rows of the report."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from bench.measurement import is_dense
from bench.naming import FLOAT, checkpoint_name
from bench.report.cautions import cautions
from bench.report.figures import figures_of, weight_bytes
from bench.report.intervals import Estimate, percentile
from bench.report.launches import speedup, spread_of
from bench.report.pareto import front
from bench.usable import macs_usable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.measurement import ArtifactRecord, Measurement, Measurements
    from bench.report.figures import Figures
    from bench.report.launches import Spread

PERCENTILES = (0.5, 0.9, 0.99)


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One artifact under one condition. Every report has these columns in this order.

    Attributes:
        sparsity: the target that the user gave; ``sparsity_achieved`` is what came out.
        accuracy: top-1 on the whole evaluation set, measured on the artifact.
        agreement: fraction of the evaluation set that gets the class which the dense network gives.
        calibration_error: expected calibration error with 15 bins.
        macs_dense: multiply-accumulates of one picture; ``macs_nonzero`` only those with a non-zero weight,
            ``macs_usable`` those that the formats execute.
        latency_ms_p50: of one call, that is of a whole batch.
        speedup_vs_dense: against the fastest dense artifact of the recipe under the same condition: geometric mean over
            launches of the median over rounds of the ratio of the medians in a round, with the limits of its 95 %
            interval, which includes how much processes of one artifact differ; see ``bench.report.launches``.
        resolution: the A/A pair's largest deviation from 1, interval included; a speed-up no farther from 1 is none.
        speedup_resolved: whether the speed-up is farther from 1 than its interval and the resolution explain.
        pictures_per_s: offline scenario.
        server_rate_per_s: server scenario: the highest rate whose p99 stayed within the bound, 0 where none did.
        load_ms: median over launches, the first load of a process.
        gflops_dense_equivalent: ``2 * macs_dense * batch_size / p50``: not work done, but work made unnecessary
            included. ``gflops_useful`` counts the non-zero MACs alone, ``gflops_usable`` those that are executed.
        share_of_peak: ``gflops_usable`` of the multiply-adds from registers that the same session measured.
        share_of_bandwidth: bytes of the weights that the formats keep, once a call, of the reading from memory that the
            same session measured: what is at least needed, above 1 where the weights stay in a cache.
        dtype: what is computed in: ``float32``, ``bfloat16``, ``int8``, or ``int8+bfloat16`` where a file is quantised
            and the rest of it is computed in that.
        base: whether this is the artifact against which the others' speed-up is given.
        yardstick: an ONNX file that stands beside the artifacts and takes part in no choice.
        pareto: whether no other artifact under this condition is both faster and at least as accurate.
    """

    recipe: str
    checkpoint: str
    method: str
    pattern: str
    sparsity: float
    sparsity_achieved: float
    accuracy: float | None
    accuracy_top5: float | None
    agreement: float | None
    calibration_error: float | None
    macs_dense: int
    macs_nonzero: int
    macs_usable: int | None
    backend: str
    device: str
    dtype: str
    batch_size: int
    threads: int
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p99: float
    latency_ms_per_picture: float
    speedup_vs_dense: float | None
    speedup_low: float | None
    speedup_high: float | None
    resolution: float | None
    speedup_resolved: bool | None
    pictures_per_s: float | None
    server_rate_per_s: float | None
    server_p99_ms: float | None
    size_bytes: int
    peak_memory_bytes: int | None
    load_ms: float | None
    energy_j_per_picture: float | None
    gflops_dense_equivalent: float
    gflops_useful: float
    gflops_usable: float | None
    share_of_peak: float | None
    share_of_bandwidth: float | None
    base: bool
    pareto: bool
    yardstick: bool
    artifact: str


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was to be measured and could not be; batch size and threads are 0 for an artifact that did not open."""

    name: str
    backend: str
    dtype: str
    batch_size: int
    threads: int
    reason: str


class Analysis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a report says in numbers."""

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]


class _Context(msgspec.Struct, frozen=True):
    """What the rows of one group share."""

    base: Measurement | None
    resolution: float | None
    spread: Spread | None
    figures: Figures


def analyse(session: Measurements) -> Analysis:
    """Derive the rows, failures and warnings of a session."""
    artifacts = {record.digest: record for record in session.artifacts}
    good = [m for m in session.measurements if m.failure is None]
    timed = [m for m in good if m.metric == "latency" and not m.control]
    rows: list[Row] = []
    for group in _groups(timed, artifacts):
        where = group[0].batch_size, group[0].threads
        context = _Context(
            base=_base(group, artifacts),
            resolution=resolution_of(good, *where),
            spread=spread_of(latencies(good, *where)),
            figures=figures_of(session, *where),
        )
        made = [_row(m, artifacts[m.artifact], context) for m in group]
        rows += _mark_front(made)
    rows.sort(key=_order)
    return Analysis(
        rows=tuple(rows), failures=tuple(_failures(session, artifacts)), warnings=tuple(cautions(session, rows))
    )


def latencies(measurements: Iterable[Measurement], batch_size: int, threads: int) -> list[Measurement]:
    """What was timed side by side under one condition, controls included, without what failed."""
    key = (batch_size, threads, "latency")
    return [m for m in measurements if (m.batch_size, m.threads, m.metric) == key and m.failure is None]


def resolution_of(measurements: Iterable[Measurement], batch_size: int, threads: int) -> float | None:
    """How far the 95 % interval of an A/A pair's ratio reaches from 1, at most; ``None`` without a pair."""
    here = latencies(measurements, batch_size, threads)
    spread = spread_of(here)
    twins = {m.artifact: m for m in here if not m.control}
    pairs = [speedup(twins[m.artifact], m, spread) for m in here if m.control and m.artifact in twins]
    return max((max(abs(pair.low - 1), abs(pair.high - 1)) for pair in pairs), default=None)


def is_resolved(ratio: Estimate, resolution: float | None, launches: int) -> bool | None:
    """Whether a speed-up differs from 1 by more than the run can tell apart; ``None`` if that is not known.

    The interval's half towards 1 and the resolution are two errors that have nothing to do with each other, so they are
    added in squares: simulated, 5 of 10000 A/A pairs are called different then, and 5 % slower is seen 98 times in 100
    where processes deviate by 1 % (five launches). With one launch neither knows how much processes differ, and the
    two are added as they are.
    """
    if resolution is None:
        return None
    far = abs(math.log(ratio.value))
    half = math.log(ratio.value / ratio.low if ratio.value > 1 else ratio.high / ratio.value)
    reach = math.log1p(resolution)
    return far > (math.hypot(half, reach) if launches > 1 else half + reach)


def _groups(timed: Sequence[Measurement], artifacts: dict[str, ArtifactRecord]) -> Iterable[list[Measurement]]:
    """Measurements that may be compared: one recipe, one device, one batch size, one number of threads."""
    groups: dict[tuple[str, str, int, int], list[Measurement]] = {}
    for m in timed:
        record = artifacts[m.artifact]
        groups.setdefault((record.lineage.recipe, record.target.device, m.batch_size, m.threads), []).append(m)
    return groups.values()


def _base(group: Sequence[Measurement], artifacts: dict[str, ArtifactRecord]) -> Measurement | None:
    dense = [m for m in group if is_dense(artifacts[m.artifact])]
    return min(dense, key=lambda m: percentile(_pooled(m), 0.5), default=None)


def _row(m: Measurement, record: ArtifactRecord, around: _Context) -> Row:
    p50, p90, p99 = (percentile(_pooled(m), fraction) for fraction in PERCENTILES)
    ratio = None
    if around.base is not None:
        ratio = Estimate(1.0, 1.0, 1.0) if m is around.base else speedup(around.base, m, around.spread)
    lineage, figures = record.lineage, around.figures
    served = figures.served.get(m.artifact)
    usable = macs_usable(record.layers, record.engine, m.batch_size) if record.layers else None
    # 2 operations a MAC; per millisecond, so 1e6 of them a second are 1e-6 GFLOP per ms
    gflops_per_mac = 2 * m.batch_size / p50 / 1e6
    gflops_usable = None if usable is None else usable * gflops_per_mac
    weights = weight_bytes(record, m.batch_size)
    resolved = None if ratio is None or m is around.base else is_resolved(ratio, around.resolution, len(m.by_launch))
    return Row(
        recipe=lineage.recipe,
        checkpoint=checkpoint_name(record),
        method=lineage.method,
        pattern=lineage.pattern,
        sparsity=lineage.target_sparsity,
        sparsity_achieved=lineage.sparsity,
        accuracy=figures.of("accuracy", m.artifact),
        accuracy_top5=figures.of("accuracy_top5", m.artifact),
        agreement=figures.of("agreement", m.artifact),
        calibration_error=figures.of("calibration_error", m.artifact),
        macs_dense=record.macs_dense,
        macs_nonzero=record.macs_nonzero,
        macs_usable=usable,
        backend=record.backend,
        device=record.target.device,
        dtype=record.target.dtype,
        batch_size=m.batch_size,
        threads=m.threads,
        latency_ms_p50=p50,
        latency_ms_p90=p90,
        latency_ms_p99=p99,
        latency_ms_per_picture=p50 / m.batch_size,
        speedup_vs_dense=ratio.value if ratio else None,
        speedup_low=ratio.low if ratio else None,
        speedup_high=ratio.high if ratio else None,
        resolution=around.resolution,
        speedup_resolved=resolved,
        pictures_per_s=figures.of("throughput", m.artifact),
        server_rate_per_s=served.rate_per_s if served else None,
        server_p99_ms=served.p99_ms if served else None,
        size_bytes=record.size_bytes,
        peak_memory_bytes=_whole(figures.of("memory", m.artifact)),
        load_ms=figures.of("load_time", m.artifact),
        energy_j_per_picture=figures.of("energy", m.artifact),
        gflops_dense_equivalent=record.macs_dense * gflops_per_mac,
        gflops_useful=record.macs_nonzero * gflops_per_mac,
        gflops_usable=gflops_usable,
        share_of_peak=_share(gflops_usable, figures.peak_of(record)),
        share_of_bandwidth=_share(None if weights is None else weights / p50 / 1e6, figures.bandwidth_gb_s),
        base=m is around.base,
        pareto=False,
        yardstick=record.yardstick,
        artifact=m.artifact,
    )


def _share(value: float | None, most: float | None) -> float | None:
    return value / most if value and most else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _mark_front(rows: Sequence[Row]) -> list[Row]:
    known = [row for row in rows if row.accuracy is not None and not row.yardstick]
    best = front([(row.latency_ms_p50, row.accuracy or 0.0) for row in known])
    marked = {known[index].artifact for index in best}
    return [msgspec.structs.replace(row, pareto=row.artifact in marked) for row in rows]


def _order(row: Row) -> tuple[object, ...]:
    condition = (row.recipe, row.device, row.batch_size, row.threads)
    return (*condition, row.method != "dense", row.method, row.pattern, row.sparsity, row.backend, row.dtype)


def _pooled(m: Measurement) -> list[float]:
    return list(chain.from_iterable(m.samples))


def _failures(session: Measurements, artifacts: dict[str, ArtifactRecord]) -> Iterable[Failure]:
    for refusal in session.refusals:
        yield Failure(name=refusal.name, backend="", dtype=FLOAT, batch_size=0, threads=0, reason=refusal.reason)
    for m in session.measurements:
        if m.failure is not None:
            record = artifacts[m.artifact]
            name = checkpoint_name(record) + (" (A/A control)" if m.control else "")
            yield Failure(name, record.backend, record.target.dtype, m.batch_size, m.threads, m.failure)
