"""Names of what a network answers with: the keys of a dictionary, ``output``, or ``output_0`` and so on of a tuple."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from runtime.errors import UserError

OUTPUT = "output"
"""The name of the only one, where nothing else names it."""
_LONGEST = 100


def name_outputs(answer: object) -> list[tuple[str, object]]:
    """The parts of an answer with their names, in the answer's order.

    A mapping's parts are named by its keys, a named tuple's by its fields, another sequence's ``output_0`` and so on
    (one alone is ``output``). Nested ones are joined by ``_``.

    Raises:
        UserError: two have one name, or a name is empty or cannot be printed.
    """
    parts = list(_parts("", answer))
    names = [name for name, _ in parts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"the network answers with two outputs named {name[:_LONGEST]!r}; give each a name of its own"
            )
        if not name or not name.isprintable() or len(name) > _LONGEST:
            raise UserError(
                f"the network names an output {name[:_LONGEST]!r}; a name has 1 to {_LONGEST} printable characters"
            )
    return parts


def as_named(answer: object) -> Tensor | dict[str, Tensor]:
    """An answer as a checkpoint holds it: a tensor alone, or a plain dictionary of them.

    Raises:
        UserError: as for ``name_outputs``, or a part is no tensor.
    """
    if isinstance(answer, Tensor):
        return answer
    named = {}
    for name, part in name_outputs(answer):
        if not isinstance(part, Tensor):
            raise UserError(f"the network's output {name!r} is {type(part).__name__}; st3 takes tensors: leave it out")
        named[name] = part
    if not named:
        raise UserError(f"the network answers with an empty {type(answer).__name__}; st3 takes tensors")
    return named


def _parts(prefix: str, answer: object) -> Iterator[tuple[str, object]]:
    if isinstance(answer, Mapping):
        pairs = [(str(key), part) for key, part in answer.items()]
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        pairs = list(zip(answer._fields, answer, strict=True))
    elif isinstance(answer, (tuple, list)):
        numbers = [""] if len(answer) == 1 else list(map(str, range(len(answer))))
        pairs = list(zip(numbers, answer, strict=True))
        prefix = prefix or OUTPUT
    else:
        yield prefix or OUTPUT, answer
        return
    for key, part in pairs:
        yield from _parts("_".join(filter(None, (prefix, key))), part)
