"""How fast a sparse artifact could be at the most: the ratio of operations, and the roofline of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from bench.machine.peaks import bandwidth_of, peak_of
from bench.report.figures import weight_bytes
from bench.report.summary import condition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.measurement import ArtifactRecord, Measurements, Place
    from bench.report.analysis import Row

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What bounds the speed-up of one sparse row over the dense base of its condition.

    Attributes:
        flop_ratio: dense MACs over non-zero MACs, ``None`` where all weights are zero.
        roofline_speedup: the base's median latency over the shortest time that this machine's measured peak and
            bandwidth allow for the non-zero MACs and the values of the weights; ``None`` where they were not measured,
            as on a GPU or in a dtype that no peak was measured of. Positions of the weights and activations are taken
            to cost nothing.
        bound: which of the two takes that time.
    """

    artifact: str
    batch_size: int
    threads: int
    flop_ratio: float | None
    roofline_speedup: float | None
    bound: Literal["multiply-adds", "weights"] | None


def limits(session: Measurements, rows: Iterable[Row]) -> tuple[Limit, ...]:
    """Of every row that has a speed-up and is not itself dense."""
    rows = list(rows)
    records = {record.digest: record for record in session.artifacts}
    bases = {condition(row): row for row in rows if row.base}
    return tuple(
        _limit(session, records[row.artifact], row, bases[condition(row)])
        for row in rows
        if row.speedup_vs_dense is not None and row.method != "dense" and not row.yardstick
    )


def roofline_ms(
    macs: int, weight_bytes: int, gflops: float | None, gigabytes_per_s: float | None
) -> tuple[float, Literal["multiply-adds", "weights"]] | None:
    """The longer of the two times that work and reading the weights take at full speed (Williams et al. 2009).

    Two operations a MAC; ``None`` where either speed is not known.
    """
    if not gflops or not gigabytes_per_s:
        return None
    compute_ms, read_ms = 2 * macs / gflops / 1e6, weight_bytes / gigabytes_per_s / 1e6
    return (compute_ms, "multiply-adds") if compute_ms >= read_ms else (read_ms, "weights")


def place_of(size_bytes: int, caches: Mapping[str, str]) -> Place:
    """Where the weights lie between two calls, of the places whose bandwidth is measured.

    What no cache holds comes from DRAM; all else is taken to come at the speed of the second level, so that the
    result stays a bound.
    """
    largest = max((_bytes(size) for size in caches.values()), default=0)
    return "DRAM" if size_bytes > largest else "L2"


def _limit(session: Measurements, record: ArtifactRecord, row: Row, base: Row) -> Limit:
    weights = weight_bytes(record, row.batch_size)
    bound = None
    if weights is not None:
        place = place_of(weights, session.session.environment.machine.caches)
        bound = roofline_ms(
            row.macs_nonzero * row.batch_size,
            weights,
            peak_of(session.peaks, "registers", row.threads, row.dtype),
            bandwidth_of(session.bandwidths, place, row.threads),
        )
    return Limit(
        artifact=row.artifact,
        batch_size=row.batch_size,
        threads=row.threads,
        flop_ratio=row.macs_dense / row.macs_nonzero if row.macs_nonzero else None,
        roofline_speedup=base.latency_ms_p50 / bound[0] if bound and bound[0] > 0 else None,
        bound=bound[1] if bound else None,
    )


def _bytes(size: str) -> int:
    """``2048K`` in bytes; 0 where it cannot be read."""
    digits, unit = size[:-1], size[-1:]
    return int(digits) * _UNITS[unit] if digits.isdigit() and unit in _UNITS else 0
