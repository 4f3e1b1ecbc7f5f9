"""Chooses the geometry of each map size, and how many pictures share a vector, by a cost model over whole plans."""

from __future__ import annotations

import numpy as np

from compile.graph import Conv, Graph
from compile.native.geometry import Geometry, candidates
from compile.native.isa import Isa
from compile.native.plan import Compute, Gather, Plan, make_plan, step_reads, step_writes

# Cycles per vector. Measured orders of magnitude on Zen 5; they only rank alternatives.
_FMA = 0.6
_GATHER = 20.0
_EDGE = 6.0
_IN_CACHE, _OUT_OF_CACHE = 1 / 48, 1 / 12  # per byte moved
_ALTERNATIVES = 4


def choose_plan(graph: Graph, batch_size: int, isa: Isa, l2: int) -> Plan:
    """The cheapest plan found: per number of pictures in a vector, geometries are improved one size at a time."""
    plans = [
        _best_geometries(graph, batch_size, images, isa, l2)
        for images in (1, 2, 4, 8, 16, 32)
        if images <= isa.lanes and batch_size % images == 0
    ]
    return min(plans, key=lambda plan: cost(plan, l2) * plan.groups)


def _best_geometries(graph: Graph, batch_size: int, images: int, isa: Isa, l2: int) -> Plan:
    sizes = {shape[1:]: shape for shape in (graph.shapes[name] for name in _values(graph))}
    options = {size: candidates(shape, isa.lanes, images)[:_ALTERNATIVES] for size, shape in sizes.items()}
    chosen: dict[tuple[int, int], Geometry] = {size: found[0] for size, found in options.items()}
    best = make_plan(graph, chosen, batch_size)
    for size in sorted(sizes, reverse=True):
        for option in options[size][1:]:
            plan = make_plan(graph, chosen | {size: option}, batch_size)
            if cost(plan, l2) < cost(best, l2):
                chosen[size], best = option, plan
    return best


def cost(plan: Plan, l2: int) -> float:
    """Model cycles of one group of pictures."""
    total = 0.0
    per_byte = _IN_CACHE if plan.size <= 0.75 * l2 else _OUT_OF_CACHE
    for step in plan.steps:
        written = step_writes(step)
        names = [*step_reads(step), *([written] if written else [])]
        total += per_byte * sum(plan.tensors[name].size for name in names)
        if isinstance(step, Gather):
            total += _GATHER * plan.tensors[step.target].size / plan.tensors[step.target].vector
        elif isinstance(step, Compute):
            target = plan.tensors[step.node.output]
            vectors = target.geometry.rows * target.geometry.columns
            if isinstance(step.node, Conv):
                total += _FMA * vectors * int(np.count_nonzero(step.node.weight))
            if step.node.output in plan.clean:
                total += _EDGE * (target.size / target.vector - vectors * target.channels)
    return total


def _values(graph: Graph) -> list[str]:
    return [graph.input, *(node.output for node in graph.nodes)]
