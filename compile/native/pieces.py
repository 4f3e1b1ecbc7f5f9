"""What the emitters share: a step of generated C++, and expressions for places in memory."""

from __future__ import annotations

import math

import msgspec

from compile.native.plan import Plan
from runtime.steps import StepInfo


class Piece(msgspec.Struct, frozen=True):
    """A step: what it is, its struct of constants, its number of tasks, and the body of one task (C++).

    ``constants`` describe the shape alone, since steps of one shape share their machine code; what differs from step to
    step (places in the arena, arrays in the weight file) stands in the body. ``setup`` runs before the tasks. Where
    ``parts`` is given, it is how many parts a task may be cut into: the body then finds their number in ``parts``.
    """

    info: StepInfo
    constants: dict[str, str]
    tasks: str
    body: str
    comment: str
    setup: str = ""
    parts: str = ""


def literal(value: float) -> str:
    """A float32 constant in C++."""
    if math.isinf(value):
        return "-__builtin_inff()" if value < 0 else "__builtin_inff()"
    return f"{value:.9g}f" if "." in f"{value:.9g}" or "e" in f"{value:.9g}" else f"{value:.9g}.0f"


def array(kind: str, number: int | str) -> str:
    """C++ pointer to an array of the weight file."""
    return f"array<{kind}>(weights, {number})"


def tensor_index(plan: Plan, tensor: str) -> int:
    """The number by which the generated code calls a tensor."""
    return list(plan.tensors).index(tensor)


def origin(plan: Plan, tensor: str, row: int = 0, column: int = 0) -> int:
    """Byte offset in the arena of a tensor's vector at (row, column) of channel 0."""
    return plan.offsets[tensor] + plan.tensors[tensor].offset(row, column)


def exchange(plan: Plan, tensor: str, rows: str, channels: str) -> str:
    """C++ that rewrites the halo that depends on some rows and channels, where anybody reads it."""
    if tensor not in plan.clean:
        return ""
    name = f"Tensor{tensor_index(plan, tensor)}"
    return (
        f"      exchange<{name}>(arena + {plan.offsets[tensor]},\n"
        f"          {array('Edge', f'{name}::EDGES')}, {array('int32_t', f'{name}::START')}, {rows}, {channels});\n"
    )
