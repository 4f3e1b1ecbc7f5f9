"""How the zeros are shared out among the layers, where not one threshold for all decides it."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping

from runtime.errors import UserError

GLOBAL = "global"
UNIFORM = "uniform"
ERK = "erk"
PER_LAYER = "per-layer"
KINDS = (GLOBAL, UNIFORM, ERK, PER_LAYER)
"""What a method can name as the scopes that it takes; ``per-layer`` is a dictionary in the plan."""


def match(name: str, patterns: Iterable[str]) -> str | None:
    """The first of the names or shell wildcards that fits a layer's name."""
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)), None)


def refuse_unknown(patterns: Iterable[str], layers: Iterable[str], where: str) -> None:
    """Raise a ``UserError`` with the nearest names if a name or wildcard fits no layer."""
    names = list(layers)
    for pattern in patterns:
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            continue
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
        raise UserError(
            f"{where} names {pattern!r}, which fits none of the {len(names)} prunable layers; near ones are "
            f"{', '.join(near)}"
        )


def layer_sparsities(
    scope: str | Mapping[str, float], sparsity: float, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Fraction of zeros that each layer ends with, for every scope but ``global``.

    Args:
        scope: ``uniform``, ``erk``, or sparsities by layer name or wildcard, of which the first that fits counts.
        sparsity: of the layers together; in a dictionary that of the layers which it does not name.
        shapes: of the weights, by layer name.
    """
    if scope == UNIFORM:
        return dict.fromkeys(shapes, sparsity)
    if isinstance(scope, str):
        assert scope == ERK, scope
        return {name: 1 - density for name, density in erk_densities(shapes, sparsity).items()}
    found = {name: match(name, scope) for name in shapes}
    return {name: sparsity if key is None else scope[key] for name, key in found.items()}


def erk_densities(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """Erdos-Renyi-Kernel (Evci et al. 2020, section 3): density proportional to ``sum(shape) / prod(shape)``.

    For a convolution that is ``(Cout + Cin + kh + kw) / (Cout Cin kh kw)``. Layers that would get more than 1 are
    dense, and the others share what is left, so that the total is exactly ``1 - sparsity``.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    kept = (1 - sparsity) * sum(sizes.values())
    dense: set[str] = set()
    while True:
        open_ = [name for name in shapes if name not in dense]
        if not open_:
            return dict.fromkeys(shapes, 1.0)
        left = kept - sum(sizes[name] for name in dense)
        factor = left / sum(raw[name] * sizes[name] for name in open_)
        full = {name for name in open_ if factor * raw[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else factor * raw[name] for name in shapes}
        dense |= full


def whole_counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Round to whole numbers whose sum is ``total``: what rounding down leaves goes to the largest remainders."""
    counts = {name: math.floor(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
