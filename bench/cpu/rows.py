"""From a session's samples to the rows of ``bench-cpu.json``."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from bench.cpu.plan import BASE, DENSE, is_base, weights_of
from bench.naming import NATIVE
from bench.report.intervals import percentile
from bench.report.launches import speedup
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.measurement import ArtifactRecord, Measurement, Measurements


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine with some weights under one condition; the JSON has these keys and no others.

    Attributes:
        latency_ms_p50: median over all calls; a call is a whole batch.
        ratio_to_onnxruntime: how many times as fast as ONNX Runtime with the dense weights under the same condition:
            see ``bench.report.launches.speedup``.
        dtype: what is computed in, as ``Target.dtype``.
        ratio_to_dense: by precision, how many times as fast as the fastest dense engine that computes in it under the
            same condition. Sparse weights in float32 against dense ones in bfloat16 or int8 is what a user chooses
            between; their answers are not equally exact.
    """

    weights: str
    batch_size: int
    threads: int
    engine: str
    latency_ms_p50: float
    latency_ms_p90: float
    ratio_to_onnxruntime: float
    dtype: str
    ratio_to_dense: dict[str, float]


def make_rows(session: Measurements) -> tuple[Row, ...]:
    """Rows of everything that was timed, in the order of the session.

    Raises:
        UserError: ONNX Runtime with the dense weights is missing under a condition.
    """
    records = {record.digest: record for record in session.artifacts}
    timed = [m for m in session.measurements if m.metric == "latency" and not m.control and m.failure is None]
    rows = []
    for m in timed:
        record = records[m.artifact]
        base = _base(session, m.batch_size, m.threads)
        dense = _fastest_dense(timed, records, m)
        samples = list(chain.from_iterable(m.samples))
        row = Row(
            weights=weights_of(record),
            batch_size=m.batch_size,
            threads=m.threads,
            engine=record.engine,
            latency_ms_p50=percentile(samples, 0.5),
            latency_ms_p90=percentile(samples, 0.9),
            ratio_to_onnxruntime=speedup(base, m, None).value,
            dtype=record.target.dtype,
            ratio_to_dense={dtype: speedup(other, m, None).value for dtype, other in dense.items()},
        )
        rows.append(row)
    return tuple(rows)


def precision_of(dtype: str) -> str:
    """``int8`` of ``int8+bfloat16``: what most is computed in."""
    return dtype.partition("+")[0]


def _fastest_dense(
    timed: Sequence[Measurement], records: Mapping[str, ArtifactRecord], near: Measurement
) -> dict[str, Measurement]:
    """By precision the fastest engine other than native with the dense weights, under the same condition."""
    fastest: dict[str, Measurement] = {}
    for m in sorted(timed, key=lambda m: percentile(list(chain.from_iterable(m.samples)), 0.5)):
        record = records[m.artifact]
        here = (m.batch_size, m.threads) == (near.batch_size, near.threads)
        if here and weights_of(record) == DENSE and record.engine != NATIVE:
            fastest.setdefault(precision_of(record.target.dtype), m)
    return fastest


def _base(session: Measurements, batch_size: int, threads: int) -> Measurement:
    bases = {r.digest for r in session.artifacts if is_base(r) and weights_of(r) == DENSE}
    reason = "it was not measured"
    for m in session.measurements:
        here = (m.metric, m.batch_size, m.threads, m.control) == ("latency", batch_size, threads, False)
        if here and m.artifact in bases:
            if m.failure is None:
                return m
            reason = m.failure
    raise UserError(
        f"there is nothing to compare with at batch {batch_size}, threads {threads}: {BASE} with the {DENSE} weights "
        f"failed: {reason}"
    )
