"""Reads what TensorRT's builder said of sparsity, and its list of the plan's layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from compile.tensorrt.engine_layers import EngineLayer, node_names

# TensorRT 8 and 9: "(Sparsity) Layers eligible for sparse math: conv1, conv2 + relu"
#                   "(Sparsity) TRT inference plan picked sparse implementation for layers: conv2"
# TensorRT 10, 11:  "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: conv1, conv2 + relu"
#                   "(Sparsity) Chose 1 layer(s) using sparse tactics: conv2"; either may end before the colon
_ELIGIBLE = re.compile(
    r"\(Sparsity\) (?:Layers eligible for sparse math|Found (?P<count>\d+) layer\(s\) eligible to use sparse tactics)"
    r":?\s*(?P<names>.*)$"
)
_CHOSEN = re.compile(
    r"\(Sparsity\) (?:TRT inference plan picked sparse implementation for layers"
    r"|Chose (?P<count>\d+) layer\(s\) using sparse tactics):?\s*(?P<names>.*)$"
)
_LAYER = re.compile(r"^Name: (?P<name>.+?), LayerType: (?P<kind>[^,]+), Inputs: ")
_TACTIC = re.compile(r", TacticName: (?P<tactic>[^,]*)(?:,|$)")
_METADATA = re.compile(r", Metadata: (?P<metadata>.*)$")


class Said(msgspec.Struct, frozen=True):
    """One of the builder's two lists: how many layers, and the nodes in them where it named any."""

    count: int
    nodes: frozenset[str]


class BuildLog(msgspec.Struct, frozen=True):
    """``eligible`` and ``chosen`` are ``None`` where the builder said nothing of them; ``layers`` are in its order."""

    eligible: Said | None
    chosen: Said | None
    layers: tuple[EngineLayer, ...]


def read_log(messages: Iterable[str]) -> BuildLog:
    """Read a verbose log, one message an item; a message may have several lines.

    The list of layers is that of ``ProfilingVerbosity.DETAILED``, which the builder writes at the end.
    """
    eligible = chosen = None
    layers = []
    for line in (line for message in messages for line in message.splitlines()):
        if match := _ELIGIBLE.search(line):
            eligible = _said(match)
        elif match := _CHOSEN.search(line):
            chosen = _said(match)
        elif match := _LAYER.search(line):
            layers.append(_layer(match, line))
    return BuildLog(eligible, chosen, tuple(layers))


def _said(match: re.Match[str]) -> Said:
    names = [name.strip() for name in match["names"].split(",") if name.strip()]
    return Said(
        count=int(match["count"]) if match["count"] else len(names),
        nodes=frozenset(node for name in names for node in node_names(name, "")),
    )


def _layer(match: re.Match[str], line: str) -> EngineLayer:
    tactic, metadata = _TACTIC.search(line), _METADATA.search(line)
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        tactic=tactic["tactic"].strip() if tactic else "",
        nodes=node_names(match["name"], metadata["metadata"] if metadata else ""),
    )
