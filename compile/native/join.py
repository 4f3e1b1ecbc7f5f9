"""Concatenation without copying: which values are written straight to their channels of a larger tensor."""

from __future__ import annotations

import msgspec

from compile.graph import Concat, Graph


class Slice(msgspec.Struct, frozen=True):
    """The ``channels`` of the tensor ``whole`` from ``channel`` on."""

    whole: str
    channel: int
    channels: int


def owner(slices: dict[str, Slice], tensor: str) -> str:
    """The whole that a tensor is a slice of; itself if it is none."""
    return slices[tensor].whole if tensor in slices else tensor


def join(graph: Graph) -> dict[str, Slice]:
    """The slice of each value that lies in a larger tensor; what a concatenation joins elsewhere must be copied.

    The last concatenation chooses first: in a dense block, whose concatenations grow, all others are then slices of
    the last one and cost nothing. A value lies in one place, so the first of two concatenations may have to copy it.
    """
    slices: dict[str, Slice] = {}
    for node in reversed(graph.nodes):
        if not isinstance(node, Concat):
            continue
        found = _lie_together(graph, node, slices)
        if found is not None and node.output not in slices:
            slices[node.output] = msgspec.structs.replace(found, channels=graph.shapes[node.output][0])
            continue
        whole = slices.get(node.output, Slice(node.output, 0, graph.shapes[node.output][0]))
        for value, wanted in zip(node.inputs, positions(graph, node, whole), strict=True):
            if value != graph.input and value not in slices:
                slices[value] = wanted
    return slices


def positions(graph: Graph, node: Concat, whole: Slice) -> list[Slice]:
    """Where each input of a concatenation belongs, whose result is ``whole``."""
    wanted, channel = [], whole.channel
    for value in node.inputs:
        channels = graph.shapes[value][0]
        wanted.append(Slice(whole.whole, channel, channels))
        channel += channels
    return wanted


def _lie_together(graph: Graph, node: Concat, slices: dict[str, Slice]) -> Slice | None:
    """Where all inputs already lie one after another."""
    first = slices.get(node.inputs[0])
    if first is None or [slices.get(value) for value in node.inputs] != positions(graph, node, first):
        return None
    return first
