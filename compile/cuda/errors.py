"""How far a network in fewer bits is from float32: per layer, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import msgspec
import torch
from torch import Tensor, nn

from compile.cuda.choice import Candidate, place
from compile.cuda.format import DENSE
from compile.cuda.formats.dense import PLAIN, Config
from compile.cuda.network import GpuNetwork
from compile.cuda.sites import Site, sites
from compile.graph import Graph


class Errors(msgspec.Struct, frozen=True):
    """``layers``: ``|y - y32| / |y32|`` (Frobenius) by output. ``deviation``: ``max|y - golden| / max|golden|``."""

    layers: dict[str, float]
    deviation: float


@final
class _Rounded(nn.Module):
    """A layer as tensor cores compute it: weights and result rounded to ``dtype``, sums in float32."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dtype = site.problem.torch_dtype
        self.inner = _plain(msgspec.structs.replace(site, weight=site.rounded.to(torch.float32)))

    def forward(self, x: Tensor, residual: Tensor | None = None, factor: Tensor | None = None) -> Tensor:
        wide = [None if value is None else value.to(torch.float32) for value in (x, residual, factor)]
        result: Tensor = self.inner(*wide)
        return result.to(self.dtype)


def _plain(site: Site) -> nn.Module:
    """The layer in torch's own ops and float32."""
    problem = msgspec.structs.replace(site.problem, dtype="float32")
    return place(msgspec.structs.replace(site, problem=problem), Candidate(DENSE, Config(PLAIN), problem))


def emulated(graph: Graph, batch: int, dtype: str, output_shape: tuple[int, ...]) -> GpuNetwork:
    """The network in ``dtype`` for machines that have no GPU: what is stored is rounded, what is summed is not."""
    layers = {name: _Rounded(site) for name, site in sites(graph, batch, dtype).items()}
    return GpuNetwork(graph, layers, dtype, output_shape)


def reference(graph: Graph, batch: int, output_shape: tuple[int, ...]) -> GpuNetwork:
    """The network in float32 with torch's own ops."""
    layers = {name: _plain(site) for name, site in sites(graph, batch, "float32").items()}
    return GpuNetwork(graph, layers, "float32", output_shape)


def errors(
    network: GpuNetwork, exact: GpuNetwork, inputs: Tensor, golden: Tensor, layers: Mapping[str, Site]
) -> Errors:
    """Run both on the same inputs, where these lie.

    Args:
        network: in the target's dtype.
        exact: the same in float32, on the same device.
        inputs: float32 ``(B, C, H, W)``.
        golden: what the source itself answers.
        layers: whose results are compared.
    """
    wanted: dict[str, Tensor] = {}
    found: dict[str, float] = {}

    def keep(name: str, value: Tensor) -> None:
        if name in layers:
            wanted[name] = value

    def compare(name: str, value: Tensor) -> None:
        if name in layers:
            y32 = wanted.pop(name)
            found[name] = float((value.to(torch.float32) - y32).norm() / y32.norm().clamp_min(1e-30))

    exact.watch, network.watch = keep, compare
    try:
        with torch.inference_mode():
            exact(inputs)
            result = network(inputs)
    finally:
        exact.watch = network.watch = None
    largest = float(golden.abs().max()) or 1.0
    return Errors(found, float((result - golden).abs().max()) / largest)
