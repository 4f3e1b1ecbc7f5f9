"""What was measured of one layer on this machine, and the sparsity from which on zeros pay."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec


class Point(msgspec.Struct, frozen=True):
    """Time of a layer at one sparsity, a fraction of zeros, in microseconds."""

    sparsity: float
    us: float


class Dense(msgspec.Struct, frozen=True):
    """Time of a layer with dense weights: ``layer`` in words, who ran it, microseconds."""

    layer: str
    engine: str
    us: float


class Curve(msgspec.Struct, frozen=True):
    """One format on one layer.

    Attributes:
        layer: in words.
        form: the format's name.
        weights: how the zeros lie: ``unstructured``, ``1x4``, ``2:4``.
        points: by rising sparsity.
        break_even: by dense engine, the sparsity from which on this format is faster; ``None`` where it never was.
    """

    layer: str
    form: str
    weights: str
    points: tuple[Point, ...]
    break_even: dict[str, float | None]


class Expectation(msgspec.Struct, frozen=True):
    """All curves of a device. ``conditions`` say in words under what, ``notes`` what could not be measured and why."""

    device: str
    conditions: str
    dense: tuple[Dense, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()


def break_even(points: Sequence[Point], dense_us: float) -> float | None:
    """The sparsity from which on a format stays below ``dense_us``, between the points by linear interpolation.

    The lowest sparsity that was measured, where all points are below; ``None`` where the last one is not.
    """
    ordered = sorted(points, key=lambda point: point.sparsity)
    if not ordered or ordered[-1].us >= dense_us:
        return None
    for before, after in reversed(list(pairwise(ordered))):
        if before.us >= dense_us:
            share = (before.us - dense_us) / (before.us - after.us)
            return before.sparsity + share * (after.sparsity - before.sparsity)
    return ordered[0].sparsity


def curve(layer: str, form: str, weights: str, points: Sequence[Point], dense: Sequence[Dense]) -> Curve:
    """A curve with its break-even against each dense engine of the same layer."""
    ordered = tuple(sorted(points, key=lambda point: point.sparsity))
    return Curve(
        layer=layer,
        form=form,
        weights=weights,
        points=ordered,
        break_even={one.engine: break_even(ordered, one.us) for one in dense if one.layer == layer},
    )
