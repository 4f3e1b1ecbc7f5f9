"""Chooses the geometry of each map size, and how many pictures share a vector, by a cost model over whole plans."""

from __future__ import annotations

import numpy as np

from compile.graph import Attention, Conv, Graph, Move
from compile.native.channel_layout import channel_plan, reject
from compile.native.geometry import Geometry, Placement, candidates
from compile.native.isa import Isa
from compile.native.plan import Plan, make_plan
from compile.native.steps import Compute, Gather, step_reads, step_writes

# Cycles per vector. Measured orders of magnitude on Zen 5 and Emerald Rapids; they only rank alternatives.
_FMA = 0.75
_DENSE_FMA = 0.57
_CHANNEL_FMA = 0.45  # with channels in the lanes: fewer loads
_WAIT = 6.0  # of a dense layer's sums, each time that its inputs do not fit the L2 cache
_NEAR = 0.4  # of the L2 cache that inputs may fill
_GATHER = 20.0
_EDGE = 6.0
_L2, _L3, _MEMORY = 1 / 48, 1 / 12, 1 / 4  # per byte moved; the last-level cache is shared, a core has a few L2s of it
_OFFSET_BYTES = 2
_ALTERNATIVES = 4


def choose_plan(graph: Graph, batch_size: int, isa: Isa, l2: int) -> Plan:
    """The cheapest plan found: per number of pictures in a vector, geometries are improved one size at a time."""
    plans = [
        pixel_plan(graph, batch_size, images, isa, l2)
        for images in (1, 2, 4, 8, 16, 32)
        if images <= isa.lanes and batch_size % images == 0
    ]
    if reject(graph, isa) is None:
        plans.append(channel_plan(graph, batch_size, isa))
    kept = _nonzeros(graph)
    return min(plans, key=lambda plan: cost(plan, kept, l2) * plan.groups)


def pixel_plan(graph: Graph, batch_size: int, images: int, isa: Isa, l2: int) -> Plan:
    """The cheapest plan found with pixels of ``images`` pictures in the lanes."""
    sizes = {shape[1:]: shape for shape in (graph.shapes[name] for name in _values(graph))}
    options = {size: candidates(shape, isa.lanes, images, isa.item)[:_ALTERNATIVES] for size, shape in sizes.items()}
    chosen: dict[tuple[int, int], Geometry] = {size: found[0] for size, found in options.items()}
    best = make_plan(graph, chosen, batch_size)
    kept = _nonzeros(graph)
    lowest = cost(best, kept, l2)
    for size in sorted(sizes, reverse=True):
        for option in options[size][1:]:
            plan = make_plan(graph, chosen | {size: option}, batch_size)
            price = cost(plan, kept, l2)
            if price < lowest:
                chosen[size], best, lowest = option, plan, price
    return best


def cost(plan: Plan, kept: dict[str, int], l2: int) -> float:
    """Model cycles of one group of pictures; ``kept`` has each convolution's number of non-zeros, by output name."""
    total = 0.0
    full = max(placement.vector for placement in plan.tensors.values())  # the input may lie float by float
    for step in plan.steps:
        written = step_writes(step)
        names = [*step_reads(step), *([written] if written else [])]
        moved = sum(plan.tensors[name].size for name in names)
        total += (_L2 if moved <= 0.75 * l2 else _L3 if moved <= 4 * l2 else _MEMORY) * moved
        if isinstance(step, Gather):
            total += _GATHER * plan.tensors[step.target].size / full
        elif isinstance(step, Compute):
            target = plan.tensors[step.node.output]
            vectors = target.geometry.rows * target.geometry.columns
            if isinstance(step.node, Conv):
                source = plan.tensors[step.inputs[0]]
                total += _conv_cost(step.node, source, target, kept[step.node.output], l2)
            elif isinstance(step.node, Move):
                total += _GATHER * vectors * target.channels
            elif isinstance(step.node, Attention):
                total += _FMA * vectors * target.geometry.width * len(step.node.scale) * sum(step.node.sizes)
            if plan.owner(step.node.output) in plan.clean:
                total += _EDGE * (target.size / target.vector - vectors * target.channels)
    return total


def _conv_cost(conv: Conv, source: Placement, target: Placement, nonzeros: int, l2: int) -> float:
    """Multiply-adds, and weights: a large network's are gone from the cache when the next pictures come."""
    positions, item = target.geometry.rows * target.geometry.columns, target.geometry.item
    if target.geometry.lane_channels > 1:
        inputs = int(conv.weight[0].size)
        return (_CHANNEL_FMA * positions + _L3 * target.vector) * target.channels * inputs
    sparse = (_FMA * positions + _L3 * (item + _OFFSET_BYTES)) * nonzeros
    if conv.groups > 1:
        return sparse
    waits = int(source.size / (_NEAR * l2)) * positions * target.channels
    return min(sparse, (_DENSE_FMA * positions + _L3 * item) * conv.weight.size + _WAIT * waits)


def _nonzeros(graph: Graph) -> dict[str, int]:
    return {node.output: int(np.count_nonzero(node.weight)) for node in graph.nodes if isinstance(node, Conv)}


def _values(graph: Graph) -> list[str]:
    return [graph.input, *(node.output for node in graph.nodes)]
