"""Orders channels so that unstructured weights are 2:4, and sparse tensor cores can take them as they are.

The order of a map's channels is nobody's business inside a network: outputs of the layer that writes it and inputs of
those that read it are exchanged together, and all results stay the same but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import torch

from compile.graph import Conv, Graph
from compile.passes.channel_orders import ChannelOrders, Order, Segment
from compile.passes.fours import HOPELESS, Bits, broken, joined, mend, pack_rows, rows_of
from st3.patterns import TWO_OF_FOUR, obeys


class Ordered(msgspec.Struct, frozen=True):
    """The graph, and the layers whose weights are 2:4 by the new order and were not by the old one."""

    graph: Graph
    layers: frozenset[str]


def order_channels(graph: Graph) -> Ordered:
    """Find an order for each map whose readers gain by it; what is 2:4 already stays so."""
    channels = ChannelOrders(graph)
    free = {segment.key: segment for segment in channels.free()}
    readers = {
        index: node
        for index, node in enumerate(graph.nodes)
        if isinstance(node, Conv) and node.groups == 1 and node.weight.shape[1] % 4 == 0
    }
    fitting = {index for index, node in readers.items() if obeys(torch.from_numpy(node.weight != 0), TWO_OF_FOUR)}
    wanted = {index for index in readers.keys() - fitting if _mendable(readers[index], channels, free)}
    orders: dict[int, Order] = {}
    for segment in free.values():
        order = _find(readers, segment, fitting, wanted) if segment.size % 4 == 0 else None
        if order is not None:
            orders[segment.key] = order
    if not wanted:
        return Ordered(graph, frozenset())
    return Ordered(channels.reorder(orders), frozenset(readers[index].layer for index in wanted))


def _bits(node: Conv, first: int, size: int) -> Bits:
    return pack_rows(rows_of(node.weight, first, size))


def _mendable(node: Conv, channels: ChannelOrders, free: Mapping[int, Segment]) -> bool:
    """Whether all of a convolution's groups of four lie in single segments, and none is broken that has to stay."""
    ends = [*(first for _, first in channels.segments(node.input)), node.weight.shape[1]]
    if any(end % 4 for end in ends):
        return False
    for (key, first), end in zip(channels.segments(node.input), ends[1:], strict=True):
        identity = np.arange(end - first, dtype=np.int64)
        if key not in free and broken(_bits(node, first, end - first), identity):
            return False
    return True


def _find(readers: Mapping[int, Conv], segment: Segment, fitting: set[int], wanted: set[int]) -> Order | None:
    """An order that mends as many readers as can be mended together; who cannot is taken out of ``wanted``.

    What is ``fitting`` stays so.

    ``None`` where there is nothing to mend or the order had better stay.
    """
    must: list[Bits] = []
    rows: list[tuple[int, Bits]] = []
    for reader in segment.readers:
        if reader.node in wanted:
            rows.append((reader.node, _bits(readers[reader.node], reader.first, segment.size)))
        elif reader.node in fitting:
            if reader.first % 4:
                wanted -= {other.node for other in segment.readers}
                return None
            must.append(_bits(readers[reader.node], reader.first, segment.size))
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
        lost = rows[int(np.argmax(left))][0]
        wanted.discard(lost)
        rows = [(node, bits) for node, bits in rows if node != lost]
    return None
