"""From the graph to steps over tensors in memory: geometries, relayouts, halos, buffers.

Every value gets a geometry that depends on its size alone, so that a residual always fits. A consumer reads the value
in place where its window allows it; otherwise a gather step brings the value into the geometry that the window needs.
What a concatenation joins is written straight to its channels of the whole wherever that is possible.
"""

from __future__ import annotations

from typing import cast

import msgspec

from compile.graph import Concat, Conv, Elementwise, Graph, Node, Pool, reads
from compile.native.arena import place_buffers
from compile.native.geometry import Geometry, Placement, channel_geometry, placed
from compile.native.join import Slice, join, owner, positions
from compile.native.steps import Compute, Gather, Scatter, Step
from compile.native.window import Window, strided_window, subsampled_window


class Plan(msgspec.Struct, frozen=True):
    """Steps in order; each tensor's placement, which ones must be kept clean, offsets in the arena of ``size`` bytes.

    Shapes are ``(C, H, W)``; ``images`` pictures go through the steps at once, ``groups`` times in a batch. A tensor in
    ``slices`` is some channels of another, which is clean, or not, as a whole. A step whose index is ``joined`` runs
    tile by tile inside the tasks of the step before it, which writes what it reads.
    """

    graph: Graph
    images: int
    groups: int
    steps: tuple[Step, ...]
    tensors: dict[str, Placement]
    slices: dict[str, Slice]
    clean: frozenset[str]
    offsets: dict[str, int]
    size: int
    joined: frozenset[int] = frozenset()

    def positions(self) -> dict[str, int]:
        """Where in ``steps`` each convolution stands, by output name."""
        return {
            step.node.output: index
            for index, step in enumerate(self.steps)
            if isinstance(step, Compute) and isinstance(step.node, Conv)
        }

    def convolutions(self) -> dict[str, Compute]:
        """The steps that have weights, by output name."""
        return {name: cast("Compute", self.steps[index]) for name, index in self.positions().items()}

    def paired(self) -> frozenset[str]:
        """Outputs of the steps that are joined, and of those that they join; their tiles must be one row high."""
        indices = {index - shift for index in self.joined for shift in (0, 1)}
        return frozenset(name for name, index in self.positions().items() if index in indices)

    def crew_size(self, threads: int) -> int:
        """Threads that share a step; with as many groups as threads each thread runs groups of its own (model.h)."""
        return 1 if self.groups >= threads else threads

    def owner(self, tensor: str) -> str:
        """The whole that a tensor is a slice of; itself if it is none."""
        return owner(self.slices, tensor)


class _Planner:
    """Collects what the consumers ask of each tensor; halos grow while consumers are added.

    ``tensors`` and ``clean`` have the wholes only.
    """

    def __init__(self, graph: Graph, geometries: dict[tuple[int, int], Geometry]) -> None:
        self.graph = graph
        self.geometries = geometries
        self.slices = join(graph)
        self.tensors: dict[str, Placement] = {}
        self.clean: set[str] = set()
        self.steps: list[Step] = []
        self.gathered: dict[tuple[str, Geometry, float, tuple[int, int]], str] = {}

    def geometry(self, value: str) -> Geometry:
        shape = self.graph.shapes[value]
        return self.geometries[shape[1:]]

    def add_value(self, value: str) -> None:
        whole = owner(self.slices, value)
        if whole not in self.tensors:
            self.tensors[whole] = placed(self.geometry(whole), self.graph.shapes[whole][0])

    def widen(self, tensor: str, window: Window) -> None:
        """Grow a tensor's halo to what a window reads."""
        old = self.tensors[tensor]
        halo = tuple(max(a, b) for a, b in zip(old.halo, window.halo, strict=True))
        fill = window.fill if window.clean else old.fill
        self.tensors[tensor] = Placement(old.geometry, old.channels, (halo[0], halo[1], halo[2], halo[3]), fill)

    def fits_in_place(self, value: str, window: Window) -> bool:
        whole = owner(self.slices, value)
        if whole not in self.tensors or window.step != (1, 1) or self.tensors[whole].geometry != window.geometry:
            return False
        return not window.clean or whole not in self.clean or self.tensors[whole].fill == window.fill

    def bring(self, value: str, window: Window) -> str:
        """The tensor from which a window reads ``value``; adds a gather step where the value does not fit in place."""
        if self.fits_in_place(value, window):
            whole = owner(self.slices, value)
            self.widen(whole, window)
            if window.clean:
                self.clean.add(whole)
            return value
        key = (value, window.geometry, window.fill, window.step)
        if key not in self.gathered:
            name = f"{value}.gathered{len(self.gathered)}"
            self.gathered[key] = name
            self.tensors[name] = placed(window.geometry, self.graph.shapes[value][0], window.fill)
            self.steps.append(Gather(name, value, plain=value == self.graph.input, step=window.step))
        # a gather fills its halo itself, so the tensor is not among the clean ones, whose halo is exchanged
        self.widen(self.gathered[key], window)
        return self.gathered[key]

    def bring_for(self, node: Conv | Pool) -> tuple[str, Window]:
        size = self.graph.shapes[node.input][1:]
        window = strided_window(node, self.geometry(node.output), size)
        if window.geometry.lane_channels > 1:
            if node.input == self.graph.input and isinstance(node, Conv) and node.groups == 1:
                # its kernel broadcasts single floats, wherever they lie; three channels would leave most lanes empty
                window = msgspec.structs.replace(window, geometry=channel_geometry(size, 1, window.geometry.item))
            return self.bring(node.input, window), window
        small = subsampled_window(node, self.geometry(node.output))
        shared = (node.input, window.geometry, window.fill, window.step) in self.gathered
        if small is not None and not self.fits_in_place(node.input, window) and not shared:
            window = small
        return self.bring(node.input, window), window

    def bring_whole(self, value: str) -> str:
        """The tensor that holds ``value`` in its own geometry."""
        geometry = self.geometry(value)
        return self.bring(value, Window(geometry, (0, 0, 0, 0), 0.0, (1, 1), (0, 0), (1, 1), clean=False))

    def add_concat(self, node: Concat) -> None:
        """Copies the inputs that do not lie in their place; the others were written there."""
        whole = self.slices.get(node.output, Slice(node.output, 0, self.graph.shapes[node.output][0]))
        self.add_value(node.output)
        for index, (value, wanted) in enumerate(zip(node.inputs, positions(self.graph, node, whole), strict=True)):
            if self.slices.get(value) != wanted:
                name = f"{node.output}.part{index}"
                self.steps.append(Compute(Elementwise(name, value, None), (self.bring_whole(value),), None))
                self.slices[name] = wanted

    def placements(self) -> dict[str, Placement]:
        """Every tensor, slices included."""
        found = dict(self.tensors)
        for name, part in self.slices.items():
            whole = self.tensors[part.whole]
            found[name] = msgspec.structs.replace(whole, channels=part.channels, whole=whole.channels)
        return found

    def add_node(self, node: Node) -> None:
        if isinstance(node, Concat):
            self.add_concat(node)
            return
        window: Window | None = None
        if isinstance(node, (Conv, Pool)):
            tensor, window = self.bring_for(node)
            inputs = [tensor]
            inputs += [self.bring_whole(value) for value in reads(node)[1:]]
        else:
            inputs = [self.bring_whole(value) for value in reads(node)]
        self.steps.append(Compute(node, tuple(inputs), window))
        self.add_value(node.output)


def make_plan(graph: Graph, geometries: dict[tuple[int, int], Geometry], batch_size: int) -> Plan:
    """Plan a batch of ``batch_size`` pictures; ``geometries`` has one entry per ``(H, W)`` in the graph."""
    planner = _Planner(graph, geometries)
    for node in graph.nodes:
        planner.add_node(node)
    for index, value in enumerate(graph.outputs):
        planner.steps.append(Scatter(planner.bring_whole(value), index))
    images = next(iter(geometries.values())).images
    assert batch_size % images == 0
    steps, tensors = tuple(planner.steps), planner.placements()
    joined, clean = joinable(steps, tensors), frozenset(planner.clean)
    offsets, size = place_buffers(steps, tensors, planner.slices, joined)
    groups = batch_size // images
    return Plan(graph, images, groups, steps, tensors, planner.slices, clean, offsets, size, joined)


def joinable(steps: tuple[Step, ...], tensors: dict[str, Placement]) -> frozenset[int]:
    """Steps that can run tile by tile with the step before: 1x1 convolutions of the very map that it writes.

    The reader then finds each tile in the cache, which matters where the whole map does not fit in it; a pair at most,
    and only where rows are long and many enough to make tiles and tasks of them.
    """
    found: set[int] = set()
    if any(placement.geometry.lane_channels > 1 for placement in tensors.values()):
        return frozenset()  # a task with channels in the lanes is more than one tile
    for index in range(1, len(steps)):
        before, step = steps[index - 1], steps[index]
        if not (isinstance(before, Compute) and isinstance(step, Compute)) or index - 1 in found:
            continue
        if not (isinstance(before.node, Conv) and isinstance(step.node, Conv)) or step.inputs != (before.node.output,):
            continue
        assert step.window is not None
        geometry = tensors[before.node.output].geometry
        pointwise = (
            step.node.weight.shape[2:] == (1, 1) and step.window.stride == (1, 1) and not any(step.window.padding)
        )
        same = tensors[step.node.output].geometry == geometry and step.node.groups == 1
        if pointwise and same and geometry.columns >= 5 and geometry.rows >= 4:
            found.add(index)
    return frozenset(found)
