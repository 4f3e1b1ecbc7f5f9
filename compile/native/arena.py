"""Places in the arena: tensors that live at the same time do not overlap, others share memory."""

from __future__ import annotations

from compile.graph import Conv, Elementwise, LayerNorm
from compile.native.geometry import Placement
from compile.native.join import Slice, owner
from compile.native.steps import Compute, Step, step_reads, step_writes

_PAGE = 4096


def place_buffers(
    steps: tuple[Step, ...],
    tensors: dict[str, Placement],
    slices: dict[str, Slice],
    joined: frozenset[int] = frozenset(),
) -> tuple[dict[str, int], int]:
    """Arena offsets by lifetime: a residual that dies is overwritten in place, other space is reused first-fit."""
    roots: dict[str, str] = {}
    life: dict[str, list[int]] = {}
    last_read = {name: index for index, step in enumerate(steps) for name in step_reads(step)}
    wholes = {part.whole for part in slices.values()}
    for index, step in enumerate(steps):
        target = step_writes(step)
        # joined steps run at the same time as the one before
        time = index - 1 if index in joined else index
        if target is not None:
            replaced = _overwrites(step, index, last_read, tensors)
            apart = replaced is None or owner(slices, target) in wholes or owner(slices, replaced) in wholes
            roots[target] = owner(slices, target) if apart or replaced is None else roots[replaced]
            life.setdefault(roots[target], [time, time])
        for name in [*step_reads(step), *([target] if target else [])]:
            root = roots.setdefault(name, owner(slices, name))
            life[root][1] = index
    starts, size = first_fit(life, {root: tensors[root].size for root in life})
    offsets = {name: starts[root] for name, root in roots.items()}
    for name, part in slices.items():
        offsets[name] = starts[part.whole] + part.channel * tensors[name].channel_stride
    return offsets, size


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


def _overwrites(step: Step, index: int, last_read: dict[str, int], tensors: dict[str, Placement]) -> str | None:
    """The operand that a result may replace position by position: same placement, and nobody reads it later."""
    if not isinstance(step, Compute):
        return None
    if isinstance(step.node, Conv):
        # not the factor: partial sums are written before it is read
        operands = step.inputs[1:2] if step.node.residual is not None else ()
    elif isinstance(step.node, (Elementwise, LayerNorm)):
        operands = step.inputs
    else:
        return None
    for operand in operands:
        alone = step.inputs.count(operand) == 1
        if alone and last_read[operand] == index and tensors[operand] == tensors[step.node.output]:
            return operand
    return None
