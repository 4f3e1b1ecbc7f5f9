"""Which values of a graph share the order of their channels, and the same graph with other orders.

A value's channels are cut into segments: one, or after a concatenation those of its parts. Nodes that work channel by
channel hand segments on or tie them together; a convolution reads one order and writes another. What the network is
given and what it returns keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.graph import AdaptivePool, Concat, Conv, Elementwise, Graph, LayerNorm, Mean, Node, Pool, Resize, reads

Order = NDArray[np.int64]
"""Channel ``i`` of the new order is channel ``order[i]`` of the old one."""
_BY_CHANNEL = (AdaptivePool, Elementwise, LayerNorm, Mean, Pool, Resize)


class Reader(msgspec.Struct, frozen=True):
    """A convolution reads a segment as its input channels from ``first`` on; ``node`` is its place in the graph."""

    node: int
    first: int


class Segment(msgspec.Struct, frozen=True):
    """Channels that can be put in another order together, wherever they occur, and who multiplies them."""

    key: int
    size: int
    readers: tuple[Reader, ...]


class ChannelOrders:
    """The segments of a graph's values."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parents: list[int] = []
        self._sizes: list[int] = []
        self._fixed: list[bool] = []
        self._values: dict[str, tuple[int, ...]] = {graph.input: self._new(graph.shapes[graph.input][0], fixed=True)}
        for node in graph.nodes:
            self._values[node.output] = self._follow(node)
        for value in graph.outputs:
            self._fix(value)

    def free(self) -> tuple[Segment, ...]:
        """All that may be put in another order, in execution order."""
        readers: dict[int, list[Reader]] = {}
        for index, node in enumerate(self._graph.nodes):
            if isinstance(node, Conv) and node.groups == 1:
                for key, first in self.segments(node.input):
                    readers.setdefault(key, []).append(Reader(index, first))
        return tuple(
            Segment(key, self._sizes[key], tuple(found)) for key, found in readers.items() if not self._fixed[key]
        )

    def segments(self, value: str) -> list[tuple[int, int]]:
        """A value's segments and the channel that each begins with."""
        keys = [self._root(part) for part in self._values[value]]
        firsts = np.cumsum([0, *(self._sizes[key] for key in keys)])
        return [(key, int(first)) for key, first in zip(keys, firsts, strict=False)]

    def reorder(self, orders: Mapping[int, Order]) -> Graph:
        """The graph with some segments (by key) in another order; it computes what it did, in other sums."""
        nodes = tuple(self._reordered(node, orders) for node in self._graph.nodes)
        return msgspec.structs.replace(self._graph, nodes=nodes)

    def _follow(self, node: Node) -> tuple[int, ...]:
        if isinstance(node, Concat):
            return tuple(part for value in node.inputs for part in self._values[value])
        if isinstance(node, Conv):
            result = self._convolved(node)
            for value in (node.residual, node.factor):
                if value is not None:
                    self._tie(result, self._values[value])
            return result
        if isinstance(node, _BY_CHANNEL):
            result, *others = (self._values[value] for value in reads(node))
            for other in others:
                self._tie(result, other)
            return result
        for value in reads(node):
            self._fix(value)
        return self._new(self._graph.shapes[node.output][0], fixed=True)

    def _convolved(self, node: Conv) -> tuple[int, ...]:
        if node.groups == 1:
            return self._new(len(node.weight))
        if node.groups == len(node.weight) and node.weight.shape[1] == 1:
            return self._values[node.input]
        self._fix(node.input)
        return self._new(len(node.weight), fixed=True)

    def _new(self, size: int, fixed: bool = False) -> tuple[int, ...]:
        self._parents.append(len(self._parents))
        self._sizes.append(size)
        self._fixed.append(fixed)
        return (len(self._parents) - 1,)

    def _root(self, part: int) -> int:
        while self._parents[part] != part:
            part = self._parents[part]
        return part

    def _fix(self, value: str) -> None:
        for part in self._values[value]:
            self._fixed[self._root(part)] = True

    def _tie(self, left: tuple[int, ...], right: tuple[int, ...]) -> None:
        """Make two values share their orders; if they are not cut alike, neither moves."""
        pairs = [(self._root(a), self._root(b)) for a, b in zip(left, right, strict=False)]
        if len(left) != len(right) or any(self._sizes[a] != self._sizes[b] for a, b in pairs):
            for part in (*left, *right):
                self._fixed[self._root(part)] = True
            return
        for a, b in pairs:
            # a pair before may have moved the root
            a, b = self._root(a), self._root(b)
            self._fixed[a] = self._fixed[a] or self._fixed[b]
            self._parents[b] = a

    def _order(self, value: str, orders: Mapping[int, Order]) -> Order:
        parts = [
            first + orders.get(key, np.arange(self._sizes[key], dtype=np.int64)) for key, first in self.segments(value)
        ]
        return np.concatenate(parts)

    def _reordered(self, node: Node, orders: Mapping[int, Order]) -> Node:
        if isinstance(node, LayerNorm):
            order = self._order(node.output, orders)
            return msgspec.structs.replace(node, weight=node.weight[order], bias=node.bias[order])
        if not isinstance(node, Conv):
            return node
        order = self._order(node.output, orders)
        weight = node.weight[order]
        if node.groups == 1:
            weight = weight[:, self._order(node.input, orders)]
        return msgspec.structs.replace(node, weight=np.ascontiguousarray(weight), bias=node.bias[order])
