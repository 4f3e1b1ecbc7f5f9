"""What the emitters share: a step of generated C++, and expressions for places in memory."""

from __future__ import annotations

import math

import msgspec

from compile.native.geometry import Placement
from compile.native.plan import Plan
from runtime.steps import StepInfo


class Unit(msgspec.Struct, frozen=True):
    """A function of generated C++ that is compiled by itself; units of one name have one text."""

    name: str
    text: str


class Piece(msgspec.Struct, frozen=True):
    """A step: what it is, its struct of constants, its number of tasks, and the body of one task (C++).

    ``constants`` describe the shape alone, since steps of one shape share their machine code; what differs from step to
    step (places in the arena, arrays in the weight file) stands in the body. ``setup`` runs before the tasks. Where
    ``parts`` is given, it is how many parts a task may be cut into: the body then finds their number in ``parts``.
    A ``unit`` is what the body calls.
    """

    info: StepInfo
    constants: dict[str, str]
    tasks: str
    body: str
    comment: str
    setup: str = ""
    parts: str = ""
    unit: Unit | None = None


def literal(value: float) -> str:
    """A float32 constant in C++."""
    if math.isinf(value):
        return "-__builtin_inff()" if value < 0 else "__builtin_inff()"
    return f"{value:.9g}f" if "." in f"{value:.9g}" or "e" in f"{value:.9g}" else f"{value:.9g}.0f"


def struct(name: str, constants: dict[str, str], comment: str = "") -> str:
    """C++ of a struct of constants."""
    body = "".join(f"  static constexpr {key} = {value};\n" for key, value in constants.items())
    return (f"// {comment}\n" if comment else "") + f"struct {name} {{\n{body}}};"


def vector_macros(lanes: int, item: int) -> list[str]:
    """What ``vector.h`` must know before it is read."""
    return [f"#define ST3_LANES {lanes}", *(["#define ST3_HALF"] if item == 2 else [])]


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
    whole = plan.owner(tensor)
    if whole not in plan.clean:
        return ""
    name = f"Tensor{tensor_index(plan, whole)}"
    return (
        f"      exchange<{name}>(arena + {plan.offsets[tensor]},\n"
        f"          {array('Edge', f'{name}::EDGES')}, {array('int32_t', f'{name}::START')}, {rows}, {channels});\n"
    )


def per_row(plan: Plan, output: str, constants: dict[str, str], call: str, kernel: str) -> Piece:
    """A step without weights, from the C++ ``call`` for one ``row`` of one ``channel``.

    One task per row and run of 32 channels; where a channel's rows lie together, per run of 8 channels.
    """
    target = plan.tensors[output]
    rows, run = (1, 8) if target.by_channel else (target.geometry.rows, 32)
    runs = -(-target.channels // run)
    last = "first + 1" if rows > 1 else f"first + {target.geometry.rows}"
    body = (
        f"        const int first = task / {runs}, last = {last}, low = task % {runs} * {run};\n"
        f"        const int high = low + {run} < {target.channels} ? low + {run} : {target.channels};\n"
        "        for (int channel = low; channel < high; channel++)\n"
        f"          for (int row = first; row < last; row++) {call};\n"
        + exchange(plan, output, "first, last", "low, high")
    )
    return Piece(StepInfo(output, kernel), constants, str(rows * runs), body, f"{kernel} {output}")


def output_constants(target: Placement) -> dict[str, str]:
    """What a kernel that writes row by row must know of its result; the strides are in bytes."""
    return {
        "int COLUMNS": str(target.geometry.columns),
        "long Y_ROW": str(target.row_stride),
        "long Y_CHANNEL": str(target.channel_stride),
    }


def row_columns(columns: int, run: int | None) -> tuple[int, str]:
    """Into how many runs of ``run`` columns a row is cut (``None``: it stays whole), and C++ of a task's run.

    The C++ takes the run's number from ``task`` and names its columns ``[first, last)``.
    """
    across = columns if run is None else run
    runs = -(-columns // across)
    place = f"task % {runs} * {across}" if runs > 1 else "0"
    last = f"first + {across} < {columns} ? first + {across} : {columns}" if runs > 1 else str(columns)
    return runs, f"        const int first = {place}, last = {last};\n"
