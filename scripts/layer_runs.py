"""Times candidates of one layer on a GPU: all are CUDA graphs that take turns, each checked against float64 first.

They work on copies of inputs and weights that together do not fit into the second-level cache, as in a network.
"""

from __future__ import annotations

import copy
import statistics
import sys
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compile.cuda.choice import Candidate, place
from compile.cuda.formats.dense import ACTIVATIONS
from compile.cuda.sites import Site
from runtime.cuda import gpu
from runtime.cuda.replay import replay_us

CALLS = 16  # in a graph, at least
MOST_COPIES = 16
CHECKED_PICTURES = 2


class Run(msgspec.Struct):
    """A candidate and what was measured of it."""

    candidate: Candidate
    graph: torch.cuda.CUDAGraph
    kept: list[nn.Module]  # the graph reads their buffers
    error: float
    samples_us: list[float] = msgspec.field(default_factory=list)

    @property
    def us(self) -> float:
        """The median."""
        return statistics.median(self.samples_us)


def measure(site: Site, candidates: list[Candidate], rounds: int) -> list[Run]:
    """All of them in turns; one that cannot run is left out, and said."""
    problem = site.problem
    elements = site.weight.numel() + problem.batch * problem.channels * problem.height * problem.width
    elements += problem.rows * problem.outputs * (2 if problem.residual else 1)
    copies = max(2, min(MOST_COPIES, -(-2 * gpu.l2_bytes() // (elements * problem.element_bytes))))

    def normal(shape: tuple[int, ...]) -> Tensor:
        made = torch.randn(shape, device="cuda").to(problem.torch_dtype)
        return made.contiguous(memory_format=torch.channels_last)

    inputs = [
        (normal(problem.input_shape), normal(problem.output_shape) if problem.residual else None) for _ in range(copies)
    ]
    wanted = expected(site, *inputs[0])
    calls, pool, runs = -(-CALLS // copies) * copies, torch.cuda.graph_pool_handle(), []
    for candidate in candidates:
        try:
            runs.append(capture(site, candidate, inputs, wanted, calls, pool))
        except Exception as error:  # whatever a compiler, a library or a driver raises
            torch.cuda.synchronize()
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            sys.stderr.write(f"{site.layer}: {candidate.describe()} cannot run: {first}\n")
    for turn in range(rounds):
        order = runs if turn % 2 == 0 else runs[::-1]
        # the first keeps the GPU busy while the others are started
        times = replay_us([order[0].graph.replay, *(run.graph.replay for run in order)])[1:]
        for run, us in zip(order, times, strict=True):
            run.samples_us.append(us / calls)
    return runs


def expected(site: Site, x: Tensor, residual: Tensor | None) -> Tensor:
    """The first pictures in float64."""
    problem, on = site.problem, x.device
    wide = x[:CHECKED_PICTURES].double(), site.rounded.to(on).double(), site.bias.to(on).double()
    y = F.conv2d(*wide, problem.stride, problem.padding, problem.dilation, problem.groups)
    y = y if residual is None else y + residual[:CHECKED_PICTURES].double()
    return ACTIVATIONS[problem.activation](y)


def capture(
    site: Site,
    candidate: Candidate,
    inputs: list[tuple[Tensor, Tensor | None]],
    wanted: Tensor,
    calls: int,
    pool: Any,
) -> Run:
    """Check the candidate's result, then its graph of ``calls`` calls on modules and inputs that take turns."""
    first = place(site, candidate).to("cuda")
    modules = [first, *(copy.deepcopy(first) for _ in inputs[1:])]
    turns = [(modules[i % len(inputs)], *inputs[i % len(inputs)]) for i in range(calls)]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for module, x, residual in turns[:3]:
            module(x, residual)
        y = first(*inputs[0])[:CHECKED_PICTURES].double()
    torch.cuda.synchronize()
    error = float((y - wanted).norm() / wanted.norm())
    limit = 1e-4 if site.problem.dtype == "float32" else 2e-2
    assert error < limit, f"its result is wrong: relative error {error:.1e}"
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph, pool=pool):
        for module, x, residual in turns:
            module(x, residual)
    return Run(candidate, graph, list(modules), error)
