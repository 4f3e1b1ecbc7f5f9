"""A network apart from its layers' formats: the compiler's graph where that can read it, torch's program elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

from torch import fx, nn

from compile.cuda.network import NODES, GpuNetwork
from compile.cuda.results import Shapes
from compile.cuda.sites import Site, sites
from compile.cuda.swap import SwappedNetwork, program_sites
from compile.graph import Graph, refuse_others
from compile.network import Network
from compile.passes.order_channels import order_channels
from compile.passes.order_hidden import order_hidden
from compile.passes.simplify import simplify
from runtime.errors import UserError


class Body(ABC):
    """What a network is made of beside its layers.

    Attributes:
        any_batch: whether it can be built for any number of pictures, or only for one that is written into it.
        ordered: layers that are 2:4 because their input channels were put in another order.
    """

    any_batch: bool
    ordered: frozenset[str]

    @abstractmethod
    def sites(self, batch: int, dtype: str) -> dict[str, Site]:
        """The layers by the value that they make, in execution order."""

    @abstractmethod
    def build(self, layers: Mapping[str, nn.Module], dtype: str, output_shapes: Shapes) -> nn.Module:
        """The network with modules for its layers: float32 ``(B, C, H, W)`` in, float32 of ``output_shapes`` out.

        One output is a tensor, several are a tuple of them.
        """


@final
class GraphBody(Body):
    """The compiler's own graph: epilogues are fused, everything lies channels last."""

    any_batch = True

    def __init__(self, graph: Graph, ordered: frozenset[str] = frozenset()) -> None:
        self.graph = graph
        self.ordered = ordered

    def sites(self, batch: int, dtype: str) -> dict[str, Site]:
        """See ``Body.sites``."""
        return sites(self.graph, batch, dtype)

    def build(self, layers: Mapping[str, nn.Module], dtype: str, output_shapes: Shapes) -> nn.Module:
        """See ``Body.build``."""
        return GpuNetwork(self.graph, layers, dtype, output_shapes).eval()


@final
class ProgramBody(Body):
    """Torch's exported program, for networks that the graph has no words for (attention): layers alone are swapped."""

    any_batch = False

    def __init__(self, module: fx.GraphModule, ordered: frozenset[str] = frozenset()) -> None:
        self.module = module
        self.ordered = ordered

    def sites(self, batch: int, dtype: str) -> dict[str, Site]:
        """See ``Body.sites``; the batch is the program's."""
        del batch
        return program_sites(self.module, dtype)

    def build(self, layers: Mapping[str, nn.Module], dtype: str, output_shapes: Shapes) -> nn.Module:
        """See ``Body.build``."""
        return SwappedNetwork(self.module, layers, dtype, output_shapes).eval()


def open_body(network: Network, dtype: str) -> Body:
    """The network's graph, or its program.

    Args:
        network: the network.
        dtype: what it will compute in: where sparse tensor cores have that, channels are ordered for them.

    Raises:
        UserError: the graph lacks an operator and there is no program (the network came as an ONNX file).
    """
    try:
        graph = simplify(network.graph())
        refuse_others(graph, NODES, "the target cuda")
    except UserError as refusal:
        try:
            program = network.program()
        except UserError:
            raise refusal from None
        module = program.module(check_guards=False)
        return ProgramBody(module, frozenset() if dtype == "float32" else order_hidden(module))
    if dtype == "float32":
        return GraphBody(graph)
    found = order_channels(graph)
    return GraphBody(found.graph, found.layers)
