"""What a torch node says of itself: its arguments, the shape of its result, the module of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from compile.graph import Shape
from runtime.errors import UserError
from st3 import layers


def arguments(node: fx.Node) -> list[Any]:
    """All arguments in the order of the operator's schema, completed by name and default."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    given: list[Any] = list(node.args)
    for argument in schema[len(given) :]:
        given.append(node.kwargs.get(argument.name, argument.default_value))
    return given


def pair(value: object) -> tuple[int, int]:
    """Two numbers, given as one or two."""
    if isinstance(value, int):
        return value, value
    assert isinstance(value, Sequence)
    return (int(value[0]), int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


def size_of(node: fx.Node) -> list[int]:
    """The lengths of a torch node's (first) result, batch included."""
    value = node.meta["val"]
    return [int(length) for length in (value[0] if isinstance(value, (tuple, list)) else value).shape]


def map_shape(node: fx.Node) -> Shape:
    """``(C, H, W)`` of a torch node whose result is a map."""
    size = size_of(node)
    if len(size) != 4:
        raise UserError(f"node {node.name!r} has {len(size)} dimensions; the native backend takes maps (B, C, H, W)")
    return size[1], size[2], size[3]


def layer_name(node: object) -> str:
    """The name, as ``st3.layers`` has it, of the layer of a weight, or of the first weight that it is computed from."""
    while isinstance(node, fx.Node) and node.op != "get_attr" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return layers.layer_name(str(node.target)) if isinstance(node, fx.Node) else ""
