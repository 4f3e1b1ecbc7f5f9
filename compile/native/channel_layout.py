"""Which networks can have channels in the vector lanes, and their plan."""

from __future__ import annotations

from compile.graph import Conv, Elementwise, Graph, Mean, Node, Pool, reads
from compile.native.geometry import channel_geometry
from compile.native.isa import Isa
from compile.native.plan import Plan, make_plan


def reject(graph: Graph, isa: Isa) -> str | None:
    """Why a network cannot have channels in the lanes, or ``None``."""
    for node in graph.nodes:
        reason = _reject_node(graph, node)
        if reason is not None:
            return f"{node.output}: {reason}"
    channels = graph.shapes[graph.input][0]
    gathered = any(_reads_vectors(graph, node) for node in graph.nodes) or graph.input in graph.outputs
    if gathered and channels > isa.lanes and channels % isa.lanes:
        return f"{graph.input}: its {channels} channels do not fill vectors of {isa.lanes}"
    return None


def channel_plan(graph: Graph, batch_size: int, isa: Isa) -> Plan:
    """The plan with channels in the lanes; pictures go through it one by one."""
    sizes = {shape[1:] for shape in graph.shapes.values()}
    return make_plan(graph, {size: channel_geometry(size, isa.lanes, isa.item) for size in sizes}, batch_size)


def _reject_node(graph: Graph, node: Node) -> str | None:
    if isinstance(node, Conv):
        return "a grouped convolution" if node.groups > 1 else None
    if isinstance(node, Elementwise):
        same = all(graph.shapes[value] == graph.shapes[node.output] for value in reads(node))
        return None if same else "operands of two shapes"
    return None if isinstance(node, (Mean, Pool)) else f"a {type(node).__name__}"


def _reads_vectors(graph: Graph, node: Node) -> bool:
    """Whether a node reads the network's input as vectors, not as single floats."""
    values = reads(node)
    return graph.input in (values[1:] if isinstance(node, Conv) else values)
