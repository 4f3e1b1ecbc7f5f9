"""What readers share: the graph so far, torch's arguments, and the values that torch's tensors show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from compile.aten.elements import (
    Elements,
    Lengths,
    Moved,
    Run,
    Scores,
    Source,
    element_ids,
    find_moves,
    find_view,
    picture,
)
from compile.aten.nodes import size_of
from compile.aten.views import Dims, View, axes, map_dims
from compile.graph import Concat, Conv, Move, Node, Shape
from runtime.errors import UserError


class Grouped(msgspec.Struct, frozen=True):
    """A map ``value`` seen as ``(B, groups, C / groups, H, W)``, or, ``swapped``, with these two exchanged."""

    value: str
    groups: int
    swapped: bool = False


class Import:
    """The graph so far: nodes, the shapes of values, and what each torch node shows of which value.

    Attributes:
        constants: what torch nodes are that do not depend on the picture.
        elements: torch nodes that move data about, until something computes with them.
        several: of a torch node with several results what each of them is, where they move data about.
        scores: torch nodes on the way from queries and keys to attention.
        lengths: torch nodes that are lengths of vectors, by which these are divided.
        parts: of a torch node with several results the value and the channels that each of them is.
        grouped: torch nodes that show a map's channels in groups, on the way to a shuffle.
        chosen: torch nodes that are some channels of a map and share its memory.
        reading: the torch node that is being read, for messages.
    """

    def __init__(self, weights: dict[fx.Node, Tensor], batch: int) -> None:
        self.batch = batch
        self.constants = dict(weights)
        self.elements: dict[fx.Node, Elements] = {}
        self.several: dict[fx.Node, list[Elements]] = {}
        self.scores: dict[fx.Node, Scores] = {}
        self.lengths: dict[fx.Node, Lengths] = {}
        self.moved: dict[tuple[str, bytes], str] = {}
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}
        self.views: dict[fx.Node, View] = {}
        self.parts: dict[fx.Node, list[tuple[str, NDArray[np.int64]]]] = {}
        self.grouped: dict[fx.Node, Grouped] = {}
        self.chosen: set[fx.Node] = set()
        self.reading: fx.Node | None = None
        self._memories = 0
        self._sources: list[Source] = []

    def computed(self, node: object) -> bool:
        """Whether a torch node depends on the picture."""
        return isinstance(node, fx.Node) and (node in self.views or node in self.elements)

    def view(self, node: object) -> View:
        """What a torch node shows; a ``UserError`` if that is no picture tensor."""
        if isinstance(node, fx.Node) and node in self.elements and node not in self.views:
            self._settle(node)
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
        if view.dims != map_dims(self.shapes[view.name]) and isinstance(source, fx.Node):
            moved = self._find(self.elements_of(source).ids, source)
            if moved is not None and moved.dims == map_dims(moved.shape):
                return self.place(source.name, moved)
        if view.dims != map_dims(self.shapes[view.name]):
            raise UserError(
                f"node {reader.name!r} ({reader.target}) needs a map (B, C, H, W), and {source!r} is one permuted or "
                f"reshaped; the native backend does not move data between axes"
            )
        return view.name

    def answer(self, node: object, name: str) -> str:
        """The value that a result of the network is: its elements in their own order, whatever the shape."""
        if isinstance(node, fx.Node) and node in self.elements and node not in self.views:
            held = self.elements[node]
            found = picture(held.ids, self.sources(), self.batch)
            plain = held.shift is None and held.factor == 1 and held.lines is None
            if found is not None and plain and found.whole():
                return found.sources[0].name
        if isinstance(node, fx.Node) and node in self.grouped and not self.grouped[node].swapped:
            return self.grouped[node].value
        view = self.view(node)
        if not in_order(view.dims) or view.dims[0] != (0,):
            raise UserError(
                f"the network's result {name!r} is a permuted map; the native backend has (C, H, W): leave the last "
                f"permutation out"
            )
        return view.name

    def sources(self) -> list[Source]:
        """Numbers for the elements of all values so far."""
        for name in list(self.shapes)[len(self._sources) :]:
            last = self._sources[-1] if self._sources else Source("", 1, (0, 0, 0))
            self._sources.append(Source(name, last.first + self.batch * last.size, self.shapes[name]))
        return self._sources

    def elements_of(self, node: fx.Node) -> Elements:
        """A torch node as numbers of elements, which a view is too."""
        if node in self.elements and node not in self.views:
            return self.elements[node]
        view = self.view(node)
        source = next(source for source in self.sources() if source.name == view.name)
        return Elements(element_ids(source, view, self.batch, size_of(node)), view.memory)

    def like(self, node: fx.Node, view: View) -> str | None:
        """The value that has a torch node's pixels where another tensor has its own, if they can be moved there."""
        whole = (self.batch, *self.shapes[view.name])
        order = axes(view.dims)
        left = [number for number in range(4) if number not in order]
        ids = self.elements_of(node).ids.reshape([whole[number] for number in (*order, *left)])
        moved = self._find(ids.permute(*np.argsort((*order, *left)).tolist()), node)
        if moved is None or moved.shape != self.shapes[view.name]:
            return None
        return self.place(f"{node.name}_moved", moved)

    def place(self, name: str, moved: Moved, shift: NDArray[np.float32] | None = None) -> str:
        """Append what puts pixels in their places, and the channels of several values one after another."""
        names, start = [], 0
        for number, run in enumerate(moved.runs):
            end = start + run.count
            added = None if shift is None else shift[start:end]
            names.append(self.move(name if len(moved.runs) == 1 else f"{name}_part{number}", run, moved.shape, added))
            start = end
        if len(names) > 1:
            self.append(Concat(name, tuple(names)), moved.shape)
            return name
        return names[0]

    def move(self, name: str, run: Run, shape: Shape, shift: NDArray[np.float32] | None = None) -> str:
        """The value that has a run's pixels in its places, made once if nothing is added to them."""
        places = np.ascontiguousarray(run.positions.reshape(-1))
        wanted = (run.count, *shape[1:])
        key = (run.source.name, repr((run.first, wanted)).encode() + places.tobytes())
        if shift is None and key in self.moved:
            return self.moved[key]
        plain = run.count == run.source.shape[0] and wanted == run.source.shape
        if shift is None and plain and np.array_equal(places, np.arange(len(places))):
            return run.source.name
        while name in self.shapes:
            name += "_again"
        self.append(Move(name, run.source.name, run.first, places, shift), wanted)
        if shift is None:
            self.moved[key] = name
        return name

    def _find(self, ids: Tensor, node: fx.Node) -> Moved | None:
        found = picture(ids, self.sources(), self.batch)
        if found is None:
            raise UserError(
                f"node {node.name!r} ({node.target}) mixes the pictures of a batch or is nothing of them; the native "
                f"backend computes each picture by itself"
            )
        return find_moves(found)

    def _settle(self, node: fx.Node) -> None:
        """Let a torch node that moves data about show a value."""
        held = self.elements[node]
        found = picture(held.ids, self.sources(), self.batch)
        if found is not None and held.shift is None and held.lines is None:
            plain = find_view(found)
            if plain is not None:
                self._scaled(node, *plain, held)
                return
        moved = self._find(held.ids, node)
        shift = None if held.shift is None or found is None else found.of_picture(held.shift)
        if moved is None or held.lines is not None or (held.shift is not None and shift is None):
            raise UserError(
                f"node {node.name!r} ({node.target}) puts channels and pixels of maps in an order {size_of(node)} that "
                f"the native backend cannot compute with; it has maps (B, C, H, W), tokens (B, T, C), and attention"
            )
        if shift is not None:
            shift = np.ascontiguousarray(shift.transpose(moved.order).reshape(moved.shape))
            if held.factor != 1:  # of the elements alone
                shift = (shift / np.float32(held.factor)).astype(np.float32)
        self._scaled(node, self.place(node.name, moved, shift), moved.dims, held)

    def _scaled(self, node: fx.Node, name: str, dims: Dims, held: Elements) -> None:
        if held.factor != 1:
            factor = np.full(self.shapes[name][0], held.factor)
            scaled = f"{node.name}_scaled"
            self.append(per_channel(scaled, name, factor, 0 * factor, node.name, "affine"), self.shapes[name])
            name = scaled
        self.show(node, name, dims, held.memory)

    def new_memory(self) -> int:
        """A number that no tensor shares yet."""
        self._memories += 1
        return self._memories

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
        self.views[node] = View(name, dims, self.new_memory() if memory is None else memory)

    def overwrite(self, target: fx.Node, result: fx.Node) -> None:
        """An operator wrote its result over ``target``: all that share its memory show the new value from now on.

        Raises:
            UserError: ``target`` is part of a map, whose memory torch would change in part, or part of it is in use.
        """
        if target in self.chosen:
            raise UserError(
                f"node {result.name!r} writes over {target.name!r}, which is some channels of a larger map; the native "
                f"backend cannot change part of a map: use the operator that is not in place"
            )
        old, new = self.view(target).memory, self.view(result)
        elsewhere = self.shapes[new.name] != self.shapes[self.views[target].name]
        if elsewhere or any(held.memory == old for held in self.elements.values()):
            raise UserError(
                f"node {result.name!r} writes over {target.name!r}, of which other tensors show the numbers in another "
                f"order; the native backend cannot follow that: use the operator that is not in place"
            )
        for node, view in self.views.items():
            if view.memory == old:
                self.views[node] = View(new.name, view.dims, new.memory)

    def array(self, node: object) -> NDArray[np.float32] | None:
        """The weight that a torch node reads, or ``None`` where there is none."""
        if node is None:
            return None
        if not isinstance(node, fx.Node) or node not in self.constants:
            raise UserError(f"weight {node!r} is computed at run time; bake the model before exporting it")
        array: NDArray[np.float32] = self.constants[node].to(torch.float32).contiguous().numpy()
        return array


Reader: TypeAlias = Callable[[Import, fx.Node], None]


def per_channel(
    output: str, source: str, scale: NDArray[np.floating[Any]], shift: NDArray[np.floating[Any]], layer: str, op: str
) -> Conv:
    """``input * scale + shift`` with ``(C,)`` each: a depthwise 1x1 convolution."""
    weight = scale.astype(np.float32).reshape(-1, 1, 1, 1)
    return Conv(output, source, layer, op, weight, shift.astype(np.float32), groups=len(scale))


def in_order(dims: Dims) -> bool:
    """Whether a view's axes come in the order of a map's."""
    return list(axes(dims)) == sorted(axes(dims))
