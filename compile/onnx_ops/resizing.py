"""ONNX's Resize of a map's rows and columns, by the rules that torch's ``interpolate`` is exported with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor, fx

from compile.aten.nodes import map_shape
from compile.aten.resizing import weights
from compile.aten.state import Import
from compile.aten.state import Reader as TorchReader
from compile.graph import Resize
from compile.onnx_ops.state import Reader, Translation, attribute, refusal

_KINDS = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
_RULES = {
    "nearest": ("asymmetric",),
    "linear": ("half_pixel", "pytorch_half_pixel", "align_corners"),
    "cubic": ("half_pixel", "pytorch_half_pixel", "align_corners"),
}
"""How places of the new map are found in the old one, as torch has it for each mode."""


def resized(x: Tensor, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Tensor:
    """A map's rows and columns mixed by two matrices."""
    return torch.einsum("bchw,yh,xw->bcyx", x, *(torch.empty(part.shape, device=x.device) for part in (rows, columns)))


def _read_resized(state: Import, node: fx.Node) -> None:
    name = state.map(node, node.args[0])
    make = Resize(node.name, name, *node.args[1:])  # type: ignore[arg-type]
    state.put(node, lambda _: make, map_shape(node))


TARGETS: dict[object, TorchReader] = {resized: _read_resized}


def _resize(state: Translation, node: NodeProto) -> None:
    size = state.size(node.input[0])
    new, factors = _wanted(state, node, size)
    mode, rule = attribute(node, "mode", "nearest"), attribute(node, "coordinate_transformation_mode", "half_pixel")
    nearest = attribute(node, "nearest_mode", "round_prefer_floor")
    cubic = attribute(node, "cubic_coeff_a", -0.75)
    same_rule = (
        rule in _RULES[mode] and (mode != "nearest" or nearest == "floor") and (mode != "cubic" or cubic == -0.75)
    )
    if len(size) != 4 or new[:2] != size[:2]:
        raise refusal(node, f"makes {new} of {size}; the native backend resizes rows and columns of (B, C, H, W)")
    if not same_rule or attribute(node, "antialias", 0) or attribute(node, "exclude_outside", 0):
        raise refusal(
            node,
            f"resizes by {mode}, {rule}, {nearest}; the native backend has what torch's interpolate is: nearest with "
            f"asymmetric and floor, linear and cubic with half_pixel or align_corners, no antialias",
        )
    if new == size:
        state.values[node.output[0]] = state.value(node.input[0])
        return
    aligned = rule == "align_corners"
    rows, columns = (weights(_KINDS[mode], size[i], new[i], aligned, factors[i]) for i in (2, 3))
    state.put(node, resized, state.value(node.input[0]), rows, columns)


def _wanted(state: Translation, node: NodeProto, size: list[int]) -> tuple[list[int], list[float | None]]:
    """The new size, and the factors where these were given."""
    scales, sizes = state.constant(node, 2, "factors"), state.constant(node, 3, "sizes")
    axes = [int(axis) % len(size) for axis in attribute(node, "axes", range(len(size)))]
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise refusal(node, "keeps the picture's proportions, which the native backend does not have")
    new = list(size)
    factors: list[float | None] = [None] * len(size)
    by_size = sizes is not None and sizes.size
    given = sizes if by_size else scales
    if given is None or len(given) != len(axes):
        raise refusal(node, f"has neither factors nor sizes for the {len(axes)} dimensions")
    for axis, number in zip(axes, given.tolist(), strict=True):
        new[axis] = int(number) if by_size else int(np.floor(size[axis] * number))
        factors[axis] = None if by_size else number
    return new, factors


READERS: dict[str, Reader] = {"Resize": _resize}
