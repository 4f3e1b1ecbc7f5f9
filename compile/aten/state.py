"""What readers share: the graph so far, torch's arguments, and the values that torch's tensors show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from compile.aten.views import Dims, View, axes, map_dims
from compile.graph import Conv, Node, Shape
from compile.passes.fold_batchnorm import tensor_of
from runtime.errors import UserError


class Grouped(msgspec.Struct, frozen=True):
    """A map ``value`` seen as ``(B, groups, C / groups, H, W)``, or, ``swapped``, with these two exchanged."""

    value: str
    groups: int
    swapped: bool = False


class Import:
    """The graph so far: nodes, the shapes of values, and what each torch node shows of which value.

    Attributes:
        parts: of a torch node with several results the value and the channels that each of them is.
        grouped: torch nodes that show a map's channels in groups, on the way to a shuffle.
        chosen: torch nodes that are some channels of a map and share its memory.
        reading: the torch node that is being read, for messages.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}
        self.views: dict[fx.Node, View] = {}
        self.parts: dict[fx.Node, list[tuple[str, NDArray[np.int64]]]] = {}
        self.grouped: dict[fx.Node, Grouped] = {}
        self.chosen: set[fx.Node] = set()
        self.reading: fx.Node | None = None
        self._memories = 0

    def view(self, node: object) -> View:
        """What a torch node shows; a ``UserError`` if that is no picture tensor."""
        if not isinstance(node, fx.Node) or node not in self.views:
            reader = "the network" if self.reading is None else f"node {self.reading.name!r} ({self.reading.target})"
            raise UserError(
                f"{reader} computes with {node!r}, which is no map of the picture's; the native backend computes with "
                f"maps and fixed weights: use the onnxruntime or inductor backend for this network"
            )
        return self.views[node]

    def map(self, reader: fx.Node, source: object) -> str:
        """The value that a torch node shows as ``(B, C, H, W)``, for the operator ``reader``."""
        view = self.view(source)
        if view.dims != map_dims(self.shapes[view.name]):
            raise UserError(
                f"node {reader.name!r} ({reader.target}) needs a map (B, C, H, W), and {source!r} is one permuted or "
                f"reshaped; the native backend does not move data between axes"
            )
        return view.name

    def input(self, node: fx.Node, shape: Shape) -> None:
        """Register the picture tensor ``(B, C, H, W)`` that the network is given."""
        self.shapes[node.name] = shape
        self.show(node, node.name, map_dims(shape))

    def put(self, source: fx.Node, make: Callable[[str], Node], shape: Shape, dims: Dims | None = None) -> None:
        """Append the node that ``make`` makes for the value's name; ``source`` shows it, as a map or as ``dims``."""
        self.append(make(source.name), shape)
        self.show(source, source.name, map_dims(shape) if dims is None else dims)

    def append(self, node: Node, shape: Shape) -> None:
        """Append a node whose value no torch node shows."""
        self.nodes.append(node)
        self.shapes[node.output] = shape

    def show(self, node: fx.Node, name: str, dims: Dims, memory: int | None = None) -> None:
        """Let a torch node show a value, in memory of its own unless given another node's."""
        if memory is None:
            self._memories += 1
            memory = self._memories
        self.views[node] = View(name, dims, memory)

    def overwrite(self, target: fx.Node, result: fx.Node) -> None:
        """An operator wrote its result over ``target``: all that share its memory show the new value from now on.

        Raises:
            UserError: ``target`` is some channels of a map, whose memory torch would change in part.
        """
        if target in self.chosen:
            raise UserError(
                f"node {result.name!r} writes over {target.name!r}, which is some channels of a larger map; the native "
                f"backend cannot change part of a map: use the operator that is not in place"
            )
        old, new = self.view(target).memory, self.view(result)
        for node, view in self.views.items():
            if view.memory == old:
                self.views[node] = View(new.name, view.dims, new.memory)

    def array(self, node: object) -> NDArray[np.float32] | None:
        """The weight that a torch node reads, or ``None`` where there is none."""
        if node is None:
            return None
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            raise UserError(f"weight {node!r} is computed at run time; bake the model before exporting it")
        tensor = tensor_of(self.module, node)
        assert tensor is not None
        return tensor.to(torch.float32).contiguous().numpy()


Reader: TypeAlias = Callable[[Import, fx.Node], None]


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
    """The qualified name of the module that owns a weight."""
    return str(node.target).rpartition(".")[0] if isinstance(node, fx.Node) else ""


def per_channel(
    output: str, source: str, scale: NDArray[np.floating[Any]], shift: NDArray[np.floating[Any]], layer: str, op: str
) -> Conv:
    """``input * scale + shift`` with ``(C,)`` each: a depthwise 1x1 convolution."""
    weight = scale.astype(np.float32).reshape(-1, 1, 1, 1)
    return Conv(output, source, layer, op, weight, shift.astype(np.float32), groups=len(scale))


def in_order(dims: Dims) -> bool:
    """Whether a view's axes come in the order of a map's."""
    return list(axes(dims)) == sorted(axes(dims))
