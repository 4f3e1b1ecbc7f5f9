"""All rewrites of the graph, in their order."""

from __future__ import annotations

from compile.graph import Graph
from compile.passes.fold_affine import fold_affine
from compile.passes.fold_select import fold_select
from compile.passes.fuse_epilogue import fuse_epilogue
from compile.passes.name_activations import name_activations


def simplify(graph: Graph) -> Graph:
    """The graph that computes the same with fewer nodes."""
    return fuse_epilogue(fold_select(fold_affine(name_activations(graph))))
