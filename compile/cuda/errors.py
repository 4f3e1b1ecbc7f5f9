"""How far a network in fewer bits is from float32: per layer, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import msgspec
import torch
from torch import Tensor, nn

from compile.cuda.choice import Candidate, place
from compile.cuda.format import DENSE
from compile.cuda.formats.dense import PLAIN, Config
from compile.cuda.sites import Site
from runtime.cuda.gpu import without_tf32
from runtime.cuda.replay import tensors_of


class Errors(msgspec.Struct, frozen=True):
    """How far off: ``layers`` by the value that they make, ``deviations`` of the network's outputs.

    ``|y - y32| / |y32|`` (Frobenius) of a layer, ``max|y - golden| / max|golden|`` of an output.
    """

    layers: dict[str, float]
    deviations: tuple[float, ...]


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


def emulated(sites: Mapping[str, Site]) -> dict[str, nn.Module]:
    """Layers for machines that have no GPU: what is stored is rounded, what is summed is not."""
    return {name: _Rounded(site) for name, site in sites.items()}


def exact(sites: Mapping[str, Site]) -> dict[str, nn.Module]:
    """Layers in float32 with torch's own ops."""
    return {name: _plain(site) for name, site in sites.items()}


def errors(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    reference: nn.Module,
    exact_layers: Mapping[str, nn.Module],
    inputs: Tensor,
    golden: Sequence[Tensor],
) -> Errors:
    """Run two networks on the same inputs, where these lie, and compare each layer's result and the outputs.

    Args:
        network: in the target's dtype.
        layers: its layers, modules inside it.
        reference: the same in float32, on the same device.
        exact_layers: its layers.
        inputs: float32 ``(B, C, H, W)``.
        golden: what the source itself answers, by output.
    """
    wanted: dict[str, Tensor] = {}
    found: dict[str, float] = {}

    def keep(name: str, value: Tensor) -> None:
        wanted[name] = value

    def compare(name: str, value: Tensor) -> None:
        y32 = wanted.pop(name)
        found[name] = float((value.to(torch.float32) - y32).norm() / y32.norm().clamp_min(1e-30))

    with torch.inference_mode():
        with _watched(exact_layers, keep), without_tf32():
            reference(inputs)
        with _watched(layers, compare):
            results = tensors_of(network(inputs))
    return Errors(found, tuple(_deviation(result, wanted) for result, wanted in zip(results, golden, strict=True)))


def _deviation(result: Tensor, golden: Tensor) -> float:
    return float((result - golden).abs().max()) / (float(golden.abs().max()) or 1.0)


@contextmanager
def _watched(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show each layer's result as it is made."""
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: see(name, output))
        for name, module in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
