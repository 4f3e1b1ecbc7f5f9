"""Which parameters of a network no method prunes, so that a sparsity says of what it is one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from torch import nn

from st3.layers import prunable_layers
from st3.parametrization import SparseWeight, latent

VECTORS = "biases, normalisations and other vectors"


class Beyond(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of one kind that no method prunes.

    Attributes:
        kind: class of the module and name of the parameter (``ConvTranspose2d.weight``), or ``VECTORS``.
        names: of the parameters in the model; of vectors none.
        count: how many numbers they are.
    """

    kind: str
    names: tuple[str, ...]
    count: int


def beyond_reach(model: nn.Module) -> tuple[Beyond, ...]:
    """What is neither a prunable layer's weight nor a method's own, the largest first and vectors last."""
    prunable = {id(latent(layer)) for layer in prunable_layers(model).values()}
    names: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if id(parameter) in prunable or isinstance(module, SparseWeight):
            continue
        vector = sum(length > 1 for length in parameter.shape) < 2
        kind = VECTORS if vector else f"{type(module).__name__}.{leaf}"
        counts[kind] = counts.get(kind, 0) + parameter.numel()
        names.setdefault(kind, []).extend(() if vector else (name,))
    found = (Beyond(kind, tuple(names[kind]), count) for kind, count in counts.items())
    return tuple(sorted(found, key=lambda part: (part.kind == VECTORS, -part.count)))


def told(prunable: int, beyond: Iterable[Beyond]) -> str:
    """One line: how many of all parameters can be pruned, and which share of them is what else.

    Args:
        prunable: number of prunable weights.
        beyond: ``beyond_reach``.
    """
    parts = tuple(beyond)
    total = prunable + sum(part.count for part in parts)
    line = f"{prunable:,} of {total:,} parameters can be pruned ({100 * prunable / total:.2f} %)"
    others = ", ".join(f"{_called(part)} {100 * part.count / total:.2f} %" for part in parts)
    return f"{line}; no method prunes {others}" if parts else line


def _called(part: Beyond) -> str:
    return f"{len(part.names)} {part.kind}" if len(part.names) > 1 else part.kind
