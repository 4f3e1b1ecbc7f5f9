"""The Pareto front: the points that no other point beats on both latency and accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points ``(latency, accuracy)`` on the front, from the fastest to the most accurate.

    A point is beaten by one that is at least as fast and at least as accurate, and better in one of the two; of
    two equal points both stay.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    chosen: list[int] = []
    for index in order:
        if not chosen or points[index][1] > points[chosen[-1]][1] or points[index] == points[chosen[-1]]:
            chosen.append(index)
    return chosen
