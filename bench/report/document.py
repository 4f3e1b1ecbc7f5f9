"""``report.json``: everything that a report says, as one value; the other texts are written from the same."""

from __future__ import annotations

import statistics
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from bench.machine.peaks import bandwidth_of, peak_of
from bench.measurement import End, Session
from bench.naming import label_of
from bench.report.analysis import Failure, Row, analyse
from bench.report.intervals import percentile
from bench.report.layer_refusals import LayerRefusal, layer_refusals
from bench.report.layer_times import Breakdown, breakdowns
from bench.report.roofline import Limit, limits
from bench.report.summary import Group, groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measurement import Measurements, Surroundings
    from bench.report.analysis import Analysis

SCHEMA_VERSION = 3
"""2: limits, layers, refused layers, the harness, the machine's peaks and what it did; summaries have a headline.
3: what each row, failure and refused layer computes in, and what a summary must say of that.
"""


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer of one condition in words, one sentence per accuracy budget.

    ``caveat`` is what else must be said: the gain beside other engines than our own, and of precisions below float32.
    """

    recipe: str
    device: str
    batch_size: int
    threads: int
    resolution: float | None
    headline: str
    caveat: str
    sentences: tuple[str, ...]


class Overhead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Microseconds a call that the bench itself costs, measured with an engine that does nothing.

    ``p50_us`` and ``p99_us`` are what every latency contains of it; ``loop_us`` is a whole call, timing included.
    """

    p50_us: float
    p99_us: float
    loop_us: float


class Ceiling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this machine was measured to do in this session: multiply-adds from registers, and reading; of all threads.

    ``gflops`` are of float32; ``None`` where it was not measured, or the processor does not compute in half precision.
    """

    threads: int
    gflops: float | None
    gflops_float16: float | None
    l2_gb_per_s: float | None
    dram_gb_per_s: float | None


class Around(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine while a condition was measured: the worst of its launches; ``None`` where it does not say.

    Attributes:
        others_cpus: CPUs that other processes kept busy.
        steal_cpus: CPUs that a hypervisor took away.
        sm_mhz: lowest and highest clock of the GPU's multiprocessors between rounds.
        power_w: the highest power that the GPU drew.
        temperature_c: the highest temperature of the GPU.
    """

    batch_size: int
    threads: int
    others_cpus: float | None
    steal_cpus: float | None
    sm_mhz: tuple[float, float] | None
    power_w: float | None
    temperature_c: float | None


class Lacking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure that could not be taken, of these artifacts; of all where none is named."""

    metric: str
    reason: str
    artifacts: tuple[str, ...]


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole report. ``source`` is the file with the raw samples; ``refused_layers`` are those that stayed dense."""

    schema_version: int
    source: str
    summary: tuple[Summary, ...]
    rows: tuple[Row, ...]
    limits: tuple[Limit, ...]
    layers: tuple[Breakdown, ...]
    refused_layers: tuple[LayerRefusal, ...]
    failures: tuple[Failure, ...]
    missing: tuple[Lacking, ...]
    warnings: tuple[str, ...]
    harness: Overhead | None
    ceilings: tuple[Ceiling, ...]
    around: tuple[Around, ...]
    session: Session
    end: End | None


def document(session: Measurements, source: str, analysis: Analysis | None = None) -> Document:
    """Derive the report of a session; ``source`` names its file."""
    found = analysis or analyse(session)
    measured = {row.artifact for row in found.rows}
    return Document(
        schema_version=SCHEMA_VERSION,
        source=source,
        summary=tuple(_summary(group) for group in groups(found.rows)),
        rows=found.rows,
        limits=limits(session, found.rows),
        layers=breakdowns(session, found.rows),
        refused_layers=layer_refusals(record for record in session.artifacts if record.digest in measured),
        failures=found.failures,
        missing=_lacking(session),
        warnings=found.warnings,
        harness=_overhead(session),
        ceilings=tuple(_ceiling(session, threads) for threads in sorted({p.threads for p in session.peaks})),
        around=tuple(
            _around([s for s in session.surroundings if (s.batch_size, s.threads) == where])
            for where in dict.fromkeys((s.batch_size, s.threads) for s in session.surroundings)
        ),
        session=session.session,
        end=session.end,
    )


def _summary(group: Group) -> Summary:
    return Summary(
        recipe=group.recipe,
        device=group.device,
        batch_size=group.batch_size,
        threads=group.threads,
        resolution=group.resolution,
        headline=group.headline,
        caveat=group.caveat,
        sentences=tuple(choice.sentence for choice in group.picks),
    )


def _overhead(session: Measurements) -> Overhead | None:
    samples = list(chain.from_iterable(run.samples_us for run in session.harness))
    if not samples:
        return None
    return Overhead(
        p50_us=percentile(samples, 0.5),
        p99_us=percentile(samples, 0.99),
        loop_us=statistics.median(chain.from_iterable(run.loop_us for run in session.harness)),
    )


def _ceiling(session: Measurements, threads: int) -> Ceiling:
    return Ceiling(
        threads=threads,
        gflops=peak_of(session.peaks, "registers", threads),
        gflops_float16=peak_of(session.peaks, "registers", threads, "float16"),
        l2_gb_per_s=bandwidth_of(session.bandwidths, "L2", threads),
        dram_gb_per_s=bandwidth_of(session.bandwidths, "DRAM", threads),
    )


def _around(launches: Sequence[Surroundings]) -> Around:
    others = [launch.others_cpus for launch in launches if launch.others_cpus is not None]
    steal = [launch.steal_cpus for launch in launches if launch.steal_cpus is not None]
    looks = [gpu for launch in launches for gpu in launch.gpus]
    clocks = [gpu.sm_mhz for gpu in looks if gpu.sm_mhz]
    return Around(
        batch_size=launches[0].batch_size,
        threads=launches[0].threads,
        others_cpus=max(others, default=None),
        steal_cpus=max(steal, default=None),
        sm_mhz=(min(clocks), max(clocks)) if clocks else None,
        power_w=max((gpu.power_w for gpu in looks), default=None),
        temperature_c=max((gpu.temperature_c for gpu in looks), default=None),
    )


def _lacking(session: Measurements) -> tuple[Lacking, ...]:
    """What is missing, each metric and reason once."""
    names = {record.digest: label_of(record) for record in session.artifacts}
    found: dict[tuple[str, str], dict[str, None]] = {}
    for missing in session.missing:
        artifacts = found.setdefault((missing.metric, missing.reason), {})
        if missing.artifact:
            artifacts[names.get(missing.artifact, missing.artifact)] = None
    return tuple(
        Lacking(metric, reason, tuple(artifacts) if set(artifacts) != set(names.values()) else ())
        for (metric, reason), artifacts in found.items()
    )
