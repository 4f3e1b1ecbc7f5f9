"""A whole training step as one CUDA graph: captured once, then replayed, so that the CPU launches one thing a step.

Forward, loss, backward, clipping, the optimiser, thresholds, the moving average and the running sums are inside; the
augmentation stays outside and its result is copied into fixed buffers. Numbers that change from step to step (learning
rate, sparsity) lie in tensors on the device and are filled before a replay. Dropout draws from torch's own generator,
whose seed a replay takes anew, so seeding it before each step works as without a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

import torch
from torch import Tensor

Body: TypeAlias = Callable[[Tensor, Tensor], None]

_WARM_UP_STEPS = 3
"""Real steps that run one by one first: momentum and workspaces are made there, and convolutions choose algorithms."""


@final
class GraphStep:
    """Runs ``body(images, labels)`` one by one at first, then by replaying what it captured."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images = self._labels = torch.empty(0)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """One step; the shapes must be those of every other step."""
        if self._warm < _WARM_UP_STEPS:
            self._warm += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._body(images, labels)
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        if self._graph is None:
            self._images, self._labels = torch.empty_like(images), torch.empty_like(labels)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._body(self._images, self._labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()


def reason_against(device: torch.device, processes: int, on_device: bool) -> str:
    """Why a run cannot have a graph; empty where it can."""
    if device.type != "cuda":
        return "the run is on a CPU"
    if processes > 1:
        return "there are several processes, whose exchange of gradients is not captured"
    if not on_device:
        return "the pictures do not lie on the device, so loading them takes longer than launching the step"
    return ""
