"""Reads changes of a map's size: nearest, bilinear and bicubic, with or without aligned corners."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import fx

from compile.aten.nodes import arguments, map_shape
from compile.aten.state import Import, Reader
from compile.graph import Resize

_CUBIC = -0.75  # torch's choice of the kernel's free parameter


def resize(kind: str) -> Reader:
    """``upsample_*2d``; what its second argument, a size or factors, comes to is the result's shape."""

    def read(state: Import, node: fx.Node) -> None:
        given = arguments(node)
        aligned = bool(given[2]) if kind != "nearest" else False
        factors = next((value for value in given[2:] if isinstance(value, (list, tuple))), None)
        name, shape = state.map(node, given[0]), map_shape(node)
        old = state.shapes[name]
        rows, columns = (
            weights(kind, old[axis], shape[axis], aligned, factors[axis - 1] if factors else None) for axis in (1, 2)
        )
        if old == shape and all(np.array_equal(matrix, np.eye(len(matrix))) for matrix in (rows, columns)):
            state.show(node, name, state.view(given[0]).dims)
        else:
            state.put(node, lambda output: Resize(output, name, rows, columns), shape)

    return read


def weights(kind: str, old: int, new: int, aligned: bool, factor: float | None) -> NDArray[np.float32]:
    """``(new, old)``: what each old position along an axis counts for each new one, as torch computes it.

    Args:
        kind: ``nearest``, ``bilinear`` or ``bicubic``.
        old: length of the axis.
        new: length that it gets.
        aligned: whether the first and the last positions of both meet (``align_corners``).
        factor: ``scale_factor``, which torch uses in place of ``new / old`` where it was given.
    """
    step = 1 / factor if factor else old / new
    if aligned:
        at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    elif kind == "nearest":
        at = np.floor(np.float32(step) * np.arange(new, dtype=np.float32)).astype(np.float64)
    else:
        at = (np.arange(new) + 0.5) * step - 0.5
    first = np.floor(at).astype(np.int64)
    part = at - first
    taps = {"nearest": ((0, np.ones(new)),), "bilinear": ((0, 1 - part), (1, part))}.get(kind) or tuple(
        (shift, _cubic(np.abs(part - shift))) for shift in (-1, 0, 1, 2)
    )
    matrix = np.zeros((new, old))
    for shift, weight in taps:
        np.add.at(matrix, (np.arange(new), np.clip(first + shift, 0, old - 1)), weight)
    return matrix.astype(np.float32)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys 1981, equation 4, at distances up to 2."""
    a = _CUBIC
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return np.where(distance <= 1, near, far)
