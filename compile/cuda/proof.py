"""Which kernels really ran: the profiler's names, layer by layer and of the payload."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_MARK = "st3-layer:"
_LENGTH = 160


def kernels_by_layer(network: nn.Module, layers: Mapping[str, nn.Module], inputs: Tensor) -> dict[str, tuple[str, ...]]:
    """Run a network on the GPU and name the kernels that each of its modules ``layers`` started, in their order."""
    with torch.inference_mode():
        network(inputs)  # what a first call does beside its work is not of interest
        with _marked(layers), _profiler() as profile:
            network(inputs)
            torch.cuda.synchronize()
    return attribute(profile.events())


def kernels_of(function: Callable[[Tensor], object], inputs: Tensor) -> frozenset[str]:
    """The names of all kernels that a function starts."""
    with torch.inference_mode():
        function(inputs)
        with _profiler() as profile:
            function(inputs)
            torch.cuda.synchronize()
    return frozenset(short(kernel.name) for event in profile.events() for kernel in event.kernels)


def attribute(events: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    """Kernels by the mark that encloses the call that started them; each name once per layer."""
    found: dict[str, dict[str, None]] = {}
    for event in events:
        layer = _layer(event)
        if layer is not None:
            found.setdefault(layer, {}).update(dict.fromkeys(short(kernel.name) for kernel in event.kernels))
    return {layer: tuple(names) for layer, names in found.items()}


def _layer(event: Any) -> str | None:
    while event is not None:
        if event.name.startswith(_MARK):
            return str(event.name).removeprefix(_MARK)
        event = event.cpu_parent
    return None


def short(name: str) -> str:
    """A kernel's name without its return type, cut where templates make it endless."""
    bare = name.removeprefix("void ").strip()
    return bare if len(bare) <= _LENGTH else bare[: _LENGTH - 3] + "..."


def _profiler() -> Any:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    return torch.profiler.profile(activities=activities)


@contextmanager
def _marked(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Each layer's call in a range with its name."""
    open_ranges: list[Any] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            open_ranges.append(torch.profiler.record_function(_MARK + name))
            open_ranges[-1].__enter__()

        return hook

    def leave(*_: object) -> None:
        open_ranges.pop().__exit__(None, None, None)

    for name, module in layers.items():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
