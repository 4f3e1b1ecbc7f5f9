"""Orders channels so that unstructured weights are 2:4, and sparse tensor cores can take them as they are.

The order of a map's channels is nobody's business inside a network: outputs of the layer that writes it and inputs of
those that read it are exchanged together, and all results stay the same but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from compile.graph import Conv, Graph
from compile.passes.channel_orders import ChannelOrders, Order, Segment
from compile.passes.fours import HOPELESS, Bits, broken, joined, mend, pack_rows, rows_of

ORDERED = "2:4 in another order of its input channels"
"""What the layer table says of a layer that gained."""


class Ordered(msgspec.Struct, frozen=True):
    """The graph, and the layers whose weights are 2:4 by the new order and were not by the old one."""

    graph: Graph
    layers: frozenset[str]


def order_channels(graph: Graph) -> Ordered:
    """Find an order for each map whose readers gain by it; what is 2:4 already stays so."""
    channels = ChannelOrders(graph)
    free = {segment.key: segment for segment in channels.free()}
    wanted = {index for index, node in enumerate(graph.nodes) if isinstance(node, Conv) and _may_gain(node)}
    wanted -= {index for index in wanted if not _mendable(graph, channels, index, free)}
    orders: dict[int, Order] = {}
    for segment in free.values():
        order = _find(graph, segment, wanted) if segment.size % 4 == 0 else None
        if order is not None:
            orders[segment.key] = order
    if not wanted:
        return Ordered(graph, frozenset())
    made = channels.reorder(orders)
    return Ordered(
        made, frozenset(node.layer for node in map(made.nodes.__getitem__, wanted) if isinstance(node, Conv))
    )


def _may_gain(node: Conv) -> bool:
    return node.groups == 1 and node.weight.shape[1] % 4 == 0 and not _obeys(node)


def _obeys(node: Conv) -> bool:
    channels = node.weight.shape[1]
    return channels % 4 == 0 and broken(_bits(node, 0, channels), np.arange(channels, dtype=np.int64)) == 0


def _bits(node: Conv, first: int, size: int) -> Bits:
    return pack_rows(rows_of(node.weight, first, size))


def _mendable(graph: Graph, channels: ChannelOrders, index: int, free: Mapping[int, Segment]) -> bool:
    """Whether all of a convolution's groups of four lie in single segments, and none is broken that has to stay."""
    node = graph.nodes[index]
    assert isinstance(node, Conv)
    ends = [*(first for _, first in channels.segments(node.input)), node.weight.shape[1]]
    if any(end % 4 for end in ends):
        return False
    for (key, first), end in zip(channels.segments(node.input), ends[1:], strict=True):
        identity = np.arange(end - first, dtype=np.int64)
        if key not in free and broken(_bits(node, first, end - first), identity):
            return False
    return True


def _find(graph: Graph, segment: Segment, wanted: set[int]) -> Order | None:
    """An order that mends as many readers as can be mended together; who cannot is taken out of ``wanted``.

    ``None`` where there is nothing to mend or the order had better stay.
    """
    must: list[Bits] = []
    rows: list[tuple[int, Bits]] = []
    for reader in segment.readers:
        node = graph.nodes[reader.node]
        assert isinstance(node, Conv)
        if reader.node in wanted:
            rows.append((reader.node, _bits(node, reader.first, segment.size)))
        elif _obeys(node):
            if reader.first % 4:
                wanted -= {other.node for other in segment.readers}
                return None
            must.append(_bits(node, reader.first, segment.size))
    order = np.arange(segment.size, dtype=np.int64)
    while rows:
        left = [broken(bits, order) for _, bits in rows]
        if sum(left) <= HOPELESS * segment.size / 4:
            found, total = mend(joined([*must, *(bits for _, bits in rows)]), order)
            if total == 0:
                return found
            left = [broken(bits, found) for _, bits in rows]
            if not any(broken(bits, found) for bits in must):
                order = found
        node_lost = rows[int(np.argmax(left))][0]
        wanted.discard(node_lost)
        rows = [(node_, bits) for node_, bits in rows if node_ != node_lost]
    return None
