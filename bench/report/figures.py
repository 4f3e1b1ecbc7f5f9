"""What a condition's rows need beside latency: one figure per artifact and metric, and the processor's limits."""

from __future__ import annotations

import math
import statistics
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from bench.machine.peaks import bandwidth_of, peak_of
from bench.measure.server import PERCENTILE, best
from bench.naming import NATIVE
from bench.report.intervals import percentile
from bench.usable import DENSE, format_at

if TYPE_CHECKING:
    from bench.measurement import ArtifactRecord, Measurements

_ANSWERS = ("accuracy", "accuracy_top5", "agreement", "calibration_error")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


class Served(msgspec.Struct, frozen=True):
    """The highest rate that held, and its p99; 0 and none where no rate held."""

    rate_per_s: float
    p99_ms: float | None


class Figures(msgspec.Struct, frozen=True):
    """Of one batch size and number of threads: figures by metric and artifact, and the processor's limits.

    ``peak_gflops`` is by the dtypes of which it was measured.
    """

    values: dict[tuple[str, str], float]
    served: dict[str, Served]
    peak_gflops: dict[str, float]
    bandwidth_gb_s: float | None

    def of(self, metric: str, artifact: str) -> float | None:
        """An artifact's figure, or ``None``."""
        return self.values.get((metric, artifact))

    def peak_of(self, record: ArtifactRecord) -> float | None:
        """The processor's peak in the dtype of an artifact; ``None`` for one on a GPU, whose peak is not measured."""
        return self.peak_gflops.get(record.target.dtype) if record.target.device == "cpu" else None


def figures_of(session: Measurements, batch_size: int, threads: int) -> Figures:
    """Bring a condition's samples down to one figure each: the median of all, of memory the most."""
    samples: dict[tuple[str, str], list[float]] = {}
    for m in session.measurements:
        # answers do not depend on the number of threads, and are measured with one number alone
        here = m.batch_size == batch_size and (m.threads == threads or m.metric in _ANSWERS)
        if here and m.failure is None and not m.control and m.samples:
            samples.setdefault((m.metric, m.artifact), []).extend(chain.from_iterable(m.samples))
    trials = [t for t in session.served if (t.batch_size, t.threads) == (batch_size, threads)]
    served = {}
    for artifact in dict.fromkeys(trial.artifact for trial in trials):
        found = best(trial for trial in trials if trial.artifact == artifact)
        p99 = percentile(found.latencies_ms, PERCENTILE) if found else None
        served[artifact] = Served(found.rate_per_s if found else 0.0, p99)
    return Figures(
        values={key: max(found) if key[0] == "memory" else statistics.median(found) for key, found in samples.items()},
        served=served,
        peak_gflops={
            dtype: peak
            for dtype in {peak.dtype for peak in session.peaks}
            if (peak := peak_of(session.peaks, "registers", threads, dtype)) is not None
        },
        bandwidth_gb_s=bandwidth_of(session.bandwidths, "DRAM", threads),
    )


def weight_bytes(record: ArtifactRecord, batch_size: int) -> int | None:
    """Bytes of the weights' values that the formats keep; ``None`` on a GPU, whose memory was not measured."""
    if record.target.device != "cpu" or not record.layers:
        return None
    kept = 0
    for layer in record.layers:
        dense = record.engine != NATIVE or format_at(layer.format, batch_size) in DENSE
        kept += math.prod(layer.weight_shape) if dense else layer.nonzeros
    return kept * _BYTES.get(record.target.dtype.partition("+")[0], 4)
