"""A network as one CUDA graph with buffers of its own, and the time that the GPU takes for it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, final

from runtime.cuda.gpu import l2_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import torch
    from torch import Tensor

WARM_UP = 3


@final
class Replay:
    """``function`` captured once on its static ``input``; ``replay`` computes ``outputs`` from what ``input`` holds.

    The first calls, before the capture, let libraries choose their algorithms and allocate what they keep.

    Attributes:
        input: float32 on the GPU; copy a batch into it.
        outputs: what the last replay made.
    """

    def __init__(self, function: Callable[[Tensor], object], example: Tensor, pool: Any = None) -> None:
        import torch

        self.input = example.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function(self.input)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self.graph, pool=pool):
            self.outputs = tensors_of(function(self.input))

    def replay(self) -> None:
        """Start the graph on the current stream."""
        self.graph.replay()


def replay_us(replays: list[Callable[[], None]], cold: bool = False) -> list[float]:
    """Microseconds on the GPU of each call, one after another in the current stream.

    Args:
        replays: what starts the work, called in this order.
        cold: the second-level cache is overwritten before each.
    """
    import torch

    def event() -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    events = [(event(), event()) for _ in replays]
    waste = _waste() if cold else None
    for (start, end), replay in zip(events, replays, strict=True):
        if waste is not None:
            waste.zero_()
        start.record()
        replay()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1000.0 for start, end in events]


@functools.cache
def _waste() -> torch.Tensor:
    """Twice as much as the second-level cache holds."""
    import torch

    return torch.empty(2 * l2_bytes(), dtype=torch.uint8, device="cuda")


def tensors_of(result: object) -> tuple[Tensor, ...]:
    """What a network returned, be it a tensor or a dictionary or sequence of them, in its order."""
    from torch.utils import _pytree

    return tuple(_pytree.tree_leaves(result))
