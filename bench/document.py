"""``report.json``: everything that a report says, as one value; the other texts are written from the same."""

from __future__ import annotations

import statistics
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from bench.analysis import Failure, Row, analyse
from bench.intervals import percentile
from bench.layer_refusals import LayerRefusal, layer_refusals
from bench.layer_times import Breakdown, breakdowns
from bench.measurement import End, Missing, Session
from bench.peaks import bandwidth_of, peak_of
from bench.roofline import Limit, limits
from bench.summary import Group, groups

if TYPE_CHECKING:
    from bench.analysis import Analysis
    from bench.measurement import Measurements

SCHEMA_VERSION = 2
"""2: limits, layers, refused layers, the harness, the machine's peaks; summaries have a headline."""


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer of one condition in words, one sentence per accuracy budget."""

    recipe: str
    batch_size: int
    threads: int
    resolution: float | None
    headline: str
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

    ``None`` where it was not measured.
    """

    threads: int
    gflops: float | None
    l2_gb_per_s: float | None
    dram_gb_per_s: float | None


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
    missing: tuple[Missing, ...]
    warnings: tuple[str, ...]
    harness: Overhead | None
    ceilings: tuple[Ceiling, ...]
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
        missing=session.missing,
        warnings=found.warnings,
        harness=_overhead(session),
        ceilings=tuple(_ceiling(session, threads) for threads in sorted({p.threads for p in session.peaks})),
        session=session.session,
        end=session.end,
    )


def _summary(group: Group) -> Summary:
    return Summary(
        recipe=group.recipe,
        batch_size=group.batch_size,
        threads=group.threads,
        resolution=group.resolution,
        headline=group.headline,
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
        l2_gb_per_s=bandwidth_of(session.bandwidths, "L2", threads),
        dram_gb_per_s=bandwidth_of(session.bandwidths, "DRAM", threads),
    )
