"""What a reader must know before believing a session's figures, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.naming import label_of
from bench.report.intervals import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.measurement import Measurement, Measurements
    from bench.report.analysis import Row

SWING_MAX = 0.2
RESOLUTION_MAX = 0.05
LOAD_PER_CPU_MAX = 0.5
OTHERS_MAX = 0.2
CLOCK_MIN = 0.9


def cautions(session: Measurements, rows: Sequence[Row]) -> Iterator[str]:
    """One sentence per thing that weakens the session."""
    environment = session.session.environment
    if session.end is None or not session.end.complete:
        yield "The session was interrupted: conditions that were not finished are missing."
    load = environment.load_average[:1]
    if load and load[0] > LOAD_PER_CPU_MAX * environment.machine.usable_cpus:
        yield (
            f"The machine was busy when the session began: load average {load[0]:.2f} "
            f"on {environment.machine.usable_cpus} CPUs."
        )
    if any(record.target.device != "cpu" for record in session.artifacts):
        yield (
            "The latency of a GPU's artifact is the GPU's own time of one CUDA graph on a batch in its memory, with a "
            "warm cache; the metrics latency_cold and latency_call have an emptied cache, and the transfers."
        )
    yield from _disturbed(session)
    yield from _missing(session)
    names = {record.digest: label_of(record) for record in session.artifacts}
    for m in session.measurements:
        if m.metric == "latency" and m.failure is None:
            yield from _unsteady(m, names[m.artifact])
    for batch_size, threads in sorted({(row.batch_size, row.threads) for row in rows}):
        yield from _unresolved([row for row in rows if (row.batch_size, row.threads) == (batch_size, threads)])


def _disturbed(session: Measurements) -> Iterator[str]:
    """One sentence per condition whose launches shared the processor with others."""
    conditions = dict.fromkeys((s.batch_size, s.threads) for s in session.surroundings)
    for batch_size, threads in conditions:
        here = [s for s in session.surroundings if (s.batch_size, s.threads) == (batch_size, threads)]
        for what, most in (
            ("other processes kept", max((s.others_cpus or 0 for s in here), default=0)),
            ("the hypervisor took", max((s.steal_cpus or 0 for s in here), default=0)),
        ):
            if most > OTHERS_MAX:
                yield f"At batch {batch_size}, threads {threads} {what} up to {most:.1f} CPUs while it was measured."
        clocks = [gpu.sm_mhz for s in here for gpu in s.gpus if gpu.sm_mhz]
        if clocks and min(clocks) < CLOCK_MIN * max(clocks):
            yield (
                f"At batch {batch_size}, threads {threads} the GPU's clock went from {min(clocks):.0f} to "
                f"{max(clocks):.0f} MHz; speed-ups are taken within rounds and bear it, latencies are less certain."
            )


def _missing(session: Measurements) -> Iterator[str]:
    """What could not be measured, each reason once."""
    for metric, reason in dict.fromkeys((missing.metric, missing.reason) for missing in session.missing):
        yield f"{metric.replace('_', ' ').capitalize()} was not measured: {reason}."


def _unsteady(m: Measurement, name: str) -> Iterator[str]:
    where = f"at batch {m.batch_size}, threads {m.threads}"
    if not m.stable:
        yield f"The warm-up of {name} {where} did not come to rest within its limit."
    # the control alone speaks for the machine: it would be said once per artifact otherwise
    if m.control == 1:
        medians = [percentile(turn, 0.5) for turn in m.samples]
        swing = percentile(medians, 0.9) / percentile(medians, 0.1) - 1
        if swing > SWING_MAX:
            yield (
                f"The machine's own speed swung by {swing:.0%} between rounds {where}; speed-ups are taken within "
                f"rounds and bear it, latencies are less certain."
            )


def _unresolved(rows: Sequence[Row]) -> Iterator[str]:
    where = f"at batch {rows[0].batch_size}, threads {rows[0].threads}"
    resolution = rows[0].resolution
    if resolution is None:
        yield f"No A/A pair was measured {where}: what the run can tell apart is unknown there."
    elif resolution > RESOLUTION_MAX:
        yield f"The A/A pair differs by up to {resolution:.1%} {where}: smaller gains cannot be told from none."
    if all(row.speedup_vs_dense is None for row in rows):
        yield f"No dense artifact was measured {where}: there is nothing to give a speed-up against."
