"""Two sessions side by side: what was measured in both, and whether it differs by more than they can tell apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from bench.measurement import End, Measurements, Session
from bench.report.analysis import Row, analyse, latencies
from bench.report.between import LogLatency, from_estimate, log_latency, quotient
from bench.report.compare_words import headline, speedup_line
from bench.report.intervals import Estimate
from bench.report.launches import spread_of
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.measurement import ArtifactRecord

SCHEMA_VERSION = 2
"""2: the dtype of what was not compared."""


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the two sessions; ``source`` is the file with its raw samples."""

    source: str
    session: Session
    end: End | None


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One artifact under one condition, in A and in B.

    Attributes:
        same_weights: whether both were compiled from the same checkpoint, bit for bit.
        ratio: A's latency over B's, that is how many times as fast B is, with the limits of its 95 % interval; see
            ``bench.report.between``. The latencies are means over launches of medians, as there.
        speedup_ratio: B's speed-up over its own dense network over A's. Both are taken within one session, so that
            what differs between the machines, or between two hours, is not in it.
        resolution: what two sessions cannot tell apart: ``(1 + A's) (1 + B's) - 1`` of their A/A pairs.
        differs: whether the latencies do, their interval included; ``None`` where a resolution is not known.
        speedup_differs: whether the speed-ups do.
    """

    recipe: str
    checkpoint: str
    backend: str
    device: str
    dtype: str
    batch_size: int
    threads: int
    same_weights: bool
    accuracy_a: float | None
    accuracy_b: float | None
    latency_ms_a: float
    latency_ms_b: float
    ratio: float
    ratio_low: float
    ratio_high: float
    speedup_a: float | None
    speedup_b: float | None
    speedup_ratio: float | None
    resolution: float | None
    differs: bool | None
    speedup_differs: bool | None


class Unpaired(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only one of the sessions has, and so was not compared."""

    side: Literal["A", "B"]
    recipe: str
    checkpoint: str
    backend: str
    dtype: str
    batch_size: int
    threads: int
    reason: str


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole comparison; ``headline`` is its answer in words, ``speedups`` that for the speed-ups over dense."""

    schema_version: int
    headline: str
    speedups: str
    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]
    warnings: tuple[str, ...]


class _Found(msgspec.Struct, frozen=True):
    """A row with what it was derived from."""

    row: Row
    record: ArtifactRecord
    latency: LogLatency

    @property
    def key(self) -> tuple[object, ...]:
        row, target = self.row, self.record.target
        return row.recipe, row.checkpoint, row.backend, target.device, row.dtype, row.batch_size, row.threads


def compare(a: Measurements, b: Measurements, sources: tuple[str, str]) -> Comparison:
    """Pair what both sessions measured under the same condition.

    Args:
        a: the session that ratios are given against.
        b: the other.
        sources: names of their files.

    Raises:
        UserError: they have nothing that may be compared; the message names the field that differs.
    """
    _refuse_foreign(a, b, sources)
    rows = (analyse(a), analyse(b))
    found_a, found_b = _found(a, rows[0].rows), _found(b, rows[1].rows)
    pairs, unpaired = _pairs(found_a, found_b)
    if not pairs:
        raise UserError(_nothing_common(found_a, found_b, sources))
    warnings = [*_warnings(a, b, pairs)]
    warnings += [f"{side}: {text}" for side, analysis in zip("AB", rows, strict=True) for text in analysis.warnings]
    return Comparison(
        schema_version=SCHEMA_VERSION,
        headline=headline(pairs),
        speedups=speedup_line(pairs),
        a=Side(sources[0], a.session, a.end),
        b=Side(sources[1], b.session, b.end),
        pairs=tuple(pairs),
        unpaired=tuple(unpaired),
        warnings=tuple(warnings),
    )


def exceeds(ratio: Estimate, resolution: float | None) -> bool | None:
    """Whether a ratio's interval lies wholly farther from 1 than the resolution; ``None`` where that is not known."""
    if resolution is None:
        return None
    return ratio.low > 1 + resolution or ratio.high < 1 / (1 + resolution)


def _refuse_foreign(a: Measurements, b: Measurements, sources: tuple[str, str]) -> None:
    for field in ("evaluation", "pictures"):
        values = [getattr(session.session, field) for session in (a, b)]
        if values[0] != values[1]:
            raise UserError(
                f"{sources[0]} and {sources[1]} cannot be compared: field {field} of the session is {values[0]} in the "
                f"one and {values[1]} in the other, so that their accuracies and inputs are of different pictures; "
                f"measure both with the same --evaluation"
            )


def _nothing_common(a: Sequence[_Found], b: Sequence[_Found], sources: tuple[str, str]) -> str:
    names = ("recipe", "checkpoint", "backend", "device", "dtype", "batch_size", "threads")
    reasons = []
    for index, name in enumerate(names):
        values = [list(dict.fromkeys(str(found.key[index]) for found in side)) for side in (a, b)]
        if not set(values[0]) & set(values[1]):
            reasons.append(f"field {name} is {', '.join(values[0]) or 'nowhere'} in the one and ")
            reasons[-1] += f"{', '.join(values[1]) or 'nowhere'} in the other"
    why = "; ".join(reasons) or f"no artifact has the same {', '.join(names)} in both"
    return f"{sources[0]} and {sources[1]} cannot be compared: {why}; measure what both are to have"


def _found(session: Measurements, rows: Sequence[Row]) -> list[_Found]:
    records = {record.digest: record for record in session.artifacts}
    found = []
    for row in rows:
        here = latencies(session.measurements, row.batch_size, row.threads)
        mine = next(m for m in here if m.artifact == row.artifact and not m.control)
        found.append(_Found(row, records[row.artifact], log_latency(mine, spread_of(here))))
    return found


def _pairs(a: Sequence[_Found], b: Sequence[_Found]) -> tuple[list[Pair], list[Unpaired]]:
    pairs: list[Pair] = []
    unpaired: list[Unpaired] = []
    for key in dict.fromkeys(found.key for found in [*a, *b]):
        mine, theirs = [f for f in a if f.key == key], [f for f in b if f.key == key]
        if len(mine) == len(theirs) == 1:
            pairs.append(_pair(mine[0], theirs[0]))
            continue
        # several of one name: only the same weights say which belongs to which
        weights = {found.record.lineage.checkpoint_sha256: found for found in theirs}
        for found in mine:
            twin = weights.pop(found.record.lineage.checkpoint_sha256, None)
            if twin is None:
                unpaired.append(_alone("A", found, bool(theirs)))
            else:
                pairs.append(_pair(found, twin))
        unpaired += [_alone("B", found, bool(mine)) for found in weights.values()]
    return pairs, unpaired


def _pair(a: _Found, b: _Found) -> Pair:
    row, other = a.row, b.row
    known = row.resolution is not None and other.resolution is not None
    resolution = (1 + (row.resolution or 0)) * (1 + (other.resolution or 0)) - 1 if known else None
    ratio = quotient(a.latency, b.latency)
    mine, theirs = _speedup(row), _speedup(other)
    # the base of both is 1 by definition
    change = quotient(from_estimate(theirs), from_estimate(mine)) if mine and theirs else None
    if row.base and other.base:
        change = None
    return Pair(
        recipe=row.recipe,
        checkpoint=row.checkpoint,
        backend=row.backend,
        device=a.record.target.device,
        dtype=row.dtype,
        batch_size=row.batch_size,
        threads=row.threads,
        same_weights=a.record.lineage.checkpoint_sha256 == b.record.lineage.checkpoint_sha256,
        accuracy_a=row.accuracy,
        accuracy_b=other.accuracy,
        latency_ms_a=math.exp(a.latency.middle),
        latency_ms_b=math.exp(b.latency.middle),
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        speedup_a=row.speedup_vs_dense,
        speedup_b=other.speedup_vs_dense,
        speedup_ratio=change.value if change else None,
        resolution=resolution,
        differs=exceeds(ratio, resolution),
        speedup_differs=exceeds(change, resolution) if change else None,
    )


def _speedup(row: Row) -> Estimate | None:
    if row.speedup_vs_dense is None or row.speedup_low is None or row.speedup_high is None:
        return None
    return Estimate(row.speedup_vs_dense, row.speedup_low, row.speedup_high)


def _alone(side: Literal["A", "B"], found: _Found, several: bool) -> Unpaired:
    other = "B" if side == "A" else "A"
    reason = f"{other} has it with other weights, and more than once" if several else f"{other} has no such measurement"
    row = found.row
    return Unpaired(side, row.recipe, row.checkpoint, row.backend, row.dtype, row.batch_size, row.threads, reason)


def _warnings(a: Measurements, b: Measurements, pairs: Sequence[Pair]) -> Iterator[str]:
    yield (
        "The sessions did not take turns, so whatever the machine did differently in the meantime is in the ratio of "
        "the latencies. Speed-ups over dense are taken within each session and do not contain it."
    )
    others = sum(not pair.same_weights for pair in pairs)
    if others:
        yield f"{others} of {len(pairs)} pairs have the same name but come from two trainings: weights may differ."
    first, second = a.session.environment, b.session.environment
    if first.machine.cpu_model != second.machine.cpu_model:
        yield f"Different processors: A {first.machine.cpu_model}, B {second.machine.cpu_model}."
    changed = [
        f"{name} {first.packages.get(name, 'none')} and {second.packages.get(name, 'none')}"
        for name in sorted({*first.packages, *second.packages})
        if first.packages.get(name) != second.packages.get(name)
    ]
    if changed:
        yield f"Different versions, A and B: {', '.join(changed)}."
    if first.commit != second.commit:
        yield f"Different commits of the bench: A {first.commit}, B {second.commit}."
