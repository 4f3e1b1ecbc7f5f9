"""The answer in words: within each accuracy budget, which artifact is the fastest, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bench.naming import NATIVE, engine_label
from bench.report import numbers
from bench.report.analysis import Row
from bench.report.precision import caveat_of

if TYPE_CHECKING:
    from collections.abc import Sequence

BUDGETS = (0.005, 0.01, 0.02)
POINT = 0.01
_SLACK = 1e-9  # a loss of exactly the budget is within it, whatever binary fractions make of it


class Pick(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The best sparse artifact that loses at most ``budget`` of accuracy against the base; ``best`` may be none."""

    budget: float
    base: Row
    best: Row | None
    sentence: str


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rows that may be compared with each other, and the picks among them.

    ``caveat``: the gain beside other engines, where the base is our own; then see ``caveat_of``.
    """

    recipe: str
    device: str
    batch_size: int
    threads: int
    resolution: float | None
    rows: tuple[Row, ...]
    picks: tuple[Pick, ...]
    headline: str
    caveat: str


def groups(rows: Sequence[Row]) -> list[Group]:
    """One group per recipe, device, batch size and number of threads, in the order of the rows."""
    keys = dict.fromkeys(map(condition, rows))
    return [_group([row for row in rows if condition(row) == key]) for key in keys]


def condition(row: Row) -> tuple[str, str, int, int]:
    """What rows must share to be compared."""
    return row.recipe, row.device, row.batch_size, row.threads


def pick(rows: Sequence[Row], base: Row, budget: float) -> Pick:
    """Choose by speed-up among the sparse artifacts within the budget that are faster beyond the resolution.

    Of those whose speed-ups the run cannot tell from the highest, the most accurate is chosen.
    """
    assert base.accuracy is not None
    floor = base.accuracy - budget - _SLACK
    faster = [
        row
        for row in rows
        if row.method != "dense"
        and not row.yardstick
        and row.accuracy is not None
        and row.accuracy >= floor
        and (row.speedup_vs_dense or 0) > 1
        and row.speedup_resolved is not False
    ]
    highest = max((row.speedup_vs_dense or 0 for row in faster), default=0.0)
    equals = [row for row in faster if (row.speedup_vs_dense or 0) * (1 + (row.resolution or 0)) >= highest]
    best = max(equals, key=lambda row: (row.accuracy or 0, row.speedup_vs_dense or 0), default=None)
    return Pick(budget=budget, base=base, best=best, sentence=_sentence(base, best, budget))


def points(fraction: float) -> str:
    """A difference of accuracy in points: one point is 0.01."""
    text = f"{fraction / POINT:g}"
    return f"{text} point" if text == "1" else f"{text} points"


def title(row: Row) -> str:
    """An artifact in words."""
    if row.method == "dense":
        return f"dense with {_engine(row)}"
    return f"{row.method} {row.pattern} at sparsity {row.sparsity:g} with {_engine(row)}"


def _group(rows: list[Row]) -> Group:
    first = rows[0]
    base = next((row for row in rows if row.base and row.accuracy is not None), None)
    picks = tuple(pick(rows, base, budget) for budget in BUDGETS) if base else ()
    return Group(
        recipe=first.recipe,
        device=first.device,
        batch_size=first.batch_size,
        threads=first.threads,
        resolution=first.resolution,
        rows=tuple(rows),
        picks=picks,
        headline=_headline(rows, picks),
        caveat=" ".join(filter(None, (_beside_others(rows, picks), caveat_of(rows)))),
    )


def _engine(row: Row) -> str:
    return engine_label(row.backend, row.dtype)


def _sentence(base: Row, best: Row | None, budget: float) -> str:
    start = f"Within {points(budget)} of dense ({numbers.accuracy(base.accuracy)})"
    if best is None:
        return f"{start}: no sparse artifact is measurably faster than the fastest dense one ({_engine(base)})."
    return (
        f"{start}: {title(best)} (accuracy {numbers.accuracy(best.accuracy)}) is "
        f"{numbers.times(best.speedup_vs_dense)} as fast as the fastest dense artifact ({_engine(base)})."
    )


def _headline(rows: Sequence[Row], picks: Sequence[Pick]) -> str:
    """The widest gain at the smallest budget that has one; without accuracies the widest gain of all."""
    if not any(row.base for row in rows):
        return "No dense artifact was measured, so no speed-up can be given."
    if not picks:
        gains = [
            row for row in rows if row.method != "dense" and not row.yardstick and row.speedup_resolved is not False
        ]
        widest = max((row.speedup_vs_dense or 0 for row in gains), default=0.0)
        start = f"Up to {numbers.times(widest)} as fast as" if widest > 1 else "Nothing is measurably faster than"
        return f"{start} the fastest dense network; no accuracy was measured."
    chosen = _chosen(picks)
    if chosen is None:
        return f"Nothing is measurably faster than dense within {points(BUDGETS[-1])} of accuracy."
    # the digits of the picture: a loss below one hundredth of a point is none
    base, best = chosen
    loss = round(((base.accuracy or 0) - (best.accuracy or 0)) / POINT, 2)
    price = f"for {loss:g} points of accuracy" if loss > 0 else "at no loss of accuracy"
    return f"{numbers.times(best.speedup_vs_dense)} as fast as the fastest dense network, {price}."


def _beside_others(rows: Sequence[Row], picks: Sequence[Pick]) -> str:
    """Where our own engine is the fastest dense one: what is gained by whoever has another now."""
    chosen = _chosen(picks)
    others = [row for row in rows if row.backend != NATIVE and (row.method == "dense" or row.yardstick)]
    if chosen is None or chosen[0].backend != NATIVE or not others:
        return ""
    best, other = chosen[1], min(others, key=lambda row: row.latency_ms_p50)
    ratio = other.latency_ms_p50 / best.latency_ms_p50
    if ratio <= 1 + (best.resolution or 0):
        return ""  # a yardstick; where one is faster `caveat_of` says so
    named, gain = f"{other.backend} in {other.dtype}", numbers.times(ratio)
    return f"Beside the fastest dense network of another engine ({named}) it is {gain} as fast."


def _chosen(picks: Sequence[Pick]) -> tuple[Row, Row] | None:
    """Base and best of the pick that the headline speaks of: the one of the smallest budget."""
    return next(((choice.base, choice.best) for choice in picks if choice.best is not None), None)
