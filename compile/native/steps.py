"""What a network does one after another: relayouts, computations, and the result."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from compile.graph import Node
from compile.native.window import Window


class Gather(msgspec.Struct, frozen=True):
    """Brings ``source`` into the placement of ``target``; a ``plain`` source is the caller's N C H W array."""

    target: str
    source: str
    plain: bool
    step: tuple[int, int]


class Compute(msgspec.Struct, frozen=True):
    """Runs a node: ``inputs`` are the tensors it reads (after relayout), in the order of ``graph.reads``.

    The node is never a concatenation: that takes no step, or a copy of each input that was not written in place.
    """

    node: Node
    inputs: tuple[str, ...]
    window: Window | None


class Scatter(msgspec.Struct, frozen=True):
    """Writes a result to the caller's N C H W array: ``index`` says which of the network's outputs it is."""

    source: str
    index: int = 0


Step: TypeAlias = "Gather | Compute | Scatter"


def step_reads(step: Step) -> tuple[str, ...]:
    """Tensors in the arena that a step reads."""
    if isinstance(step, Compute):
        return step.inputs
    if isinstance(step, Gather):
        return () if step.plain else (step.source,)
    return (step.source,)


def step_writes(step: Step) -> str | None:
    """The tensor that a step writes, if it is in the arena."""
    if isinstance(step, Compute):
        return step.node.output
    return step.target if isinstance(step, Gather) else None
