"""Places in the arena: tensors that live at the same time do not overlap, others share memory."""

from __future__ import annotations

_PAGE = 4096


def first_fit(life: dict[str, list[int]], sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Offsets of tensors, the largest placed first, and the size of all; ``life`` is first and last step of each."""
    placed: list[tuple[int, int, int, int]] = []
    starts: dict[str, int] = {}
    for name in sorted(life, key=lambda n: -sizes[n]):
        begin, end = life[name]
        size = -(-sizes[name] // _PAGE) * _PAGE
        at = 0
        for low, high, start, stop in sorted(placed, key=lambda p: p[2]):
            if high < begin or low > end or stop <= at:
                continue
            if start - at >= size:
                break
            at = stop
        placed.append((begin, end, at, at + size))
        starts[name] = at
    return starts, max((p[3] for p in placed), default=0)
