"""Times kernels of a layer on the GPU: CUDA graphs of many calls on rotating tensors, replayed in turns."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import torch
from torch import Tensor, nn

from compile.cuda.choice import Candidate, Placed, place
from compile.cuda.format import DENSE, find_format
from compile.cuda.problem import ConvProblem
from compile.cuda.sites import Site
from compile.cuda.tune import Budget, spread
from compile.cuda.tuning_cache import Timing
from runtime.cuda import gpu
from runtime.cuda.gpu import l2_bytes
from runtime.cuda.replay import WARM_UP, replay_us

_MOST_COPIES = 24
_CALLS = 24
_QUICK_ROUNDS = 3
_SEED = 20221201


@final
class GpuStopwatch:
    """Every call finds its weights and inputs as cold as in a network.

    Copies of both take turns, which together do not fit into the second-level cache: up to ``_MOST_COPIES`` of them.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def prepare(self, wanted: Sequence[tuple[Site, Candidate]]) -> None:
        """See ``Stopwatch.prepare``."""
        build_ahead(wanted)

    def measure(self, site: Site, candidates: Sequence[Candidate]) -> dict[Candidate, Timing]:
        """See ``Stopwatch.measure``: all a few times, then the best of each format again in more turns."""
        inputs = _inputs(site)
        pool = torch.cuda.graph_pool_handle()
        graphs: dict[Candidate, torch.cuda.CUDAGraph] = {}
        calls = -(-max(_CALLS, len(inputs)) // len(inputs)) * len(inputs)
        for candidate in candidates:
            graph = _captured(site, candidate, inputs, calls, pool)
            if graph is not None:
                graphs[candidate] = graph
        quick = self._turns(graphs, list(graphs), _QUICK_ROUNDS, calls)
        final = self._turns(graphs, self._finalists(quick), self.budget.rounds, calls)
        return quick | final

    def _turns(
        self, graphs: dict[Candidate, torch.cuda.CUDAGraph], who: list[Candidate], rounds: int, calls: int
    ) -> dict[Candidate, Timing]:
        samples: dict[Candidate, list[float]] = {candidate: [] for candidate in who}
        for number in range(rounds):
            order = who if number % 2 == 0 else who[::-1]
            # the first of a turn keeps the GPU busy while the others are started
            times = replay_us([graphs[order[0]].replay, *(graphs[candidate].replay for candidate in order)])[1:]
            for candidate, us in zip(order, times, strict=True):
                samples[candidate].append(us / calls)
        return {candidate: spread(found) for candidate, found in samples.items()}

    def _finalists(self, quick: dict[Candidate, Timing]) -> list[Candidate]:
        found: list[Candidate] = []
        for name in sorted({candidate.format for candidate in quick}):
            own = sorted((c for c in quick if c.format == name), key=lambda c: quick[c].us)
            found += own[: self.budget.finalists]
        return found


def build_ahead(wanted: Sequence[tuple[Site, Candidate]]) -> None:
    """Compile on all cores; the ops find the result on disk. What cannot be compiled fails where it is measured."""
    arch = gpu.architecture()
    assert arch is not None, "what is measured needs a GPU"
    rounded = {site.layer: site.rounded for site, _ in wanted}

    def build(pair: tuple[Site, Candidate]) -> None:
        site, candidate = pair
        with contextlib.suppress(Exception):
            find_format(candidate.format).build(rounded[site.layer], candidate.problem, candidate.config, arch)

    with ThreadPoolExecutor() as pool:
        list(pool.map(build, wanted))


def _inputs(site: Site) -> list[tuple[Tensor, Tensor | None]]:
    """Random inputs and residuals, as many as it takes to leave the cache cold."""
    problem = site.problem
    shape = original_shape(site)
    generator = torch.Generator(device="cuda").manual_seed(_SEED)

    def random(shape: tuple[int, ...]) -> Tensor:
        made = torch.randn(shape, generator=generator, device="cuda", dtype=torch.float32).to(problem.torch_dtype)
        return made.contiguous(memory_format=torch.channels_last)

    elements = problem.batch * problem.channels * problem.height * problem.width + site.weight.numel()
    elements += problem.rows * problem.outputs * (2 if problem.residual else 1)
    copies = max(2, min(_MOST_COPIES, -(-2 * l2_bytes() // (elements * problem.element_bytes))))
    return [(random(shape), random(problem.output_shape) if problem.residual else None) for _ in range(copies)]


def original_shape(site: Site) -> tuple[int, int, int, int]:
    """What the layer is given at its place: before it is padded."""
    problem: ConvProblem = site.problem
    top, left, bottom, right = site.pad
    return problem.batch, problem.channels, problem.height - top - bottom, problem.width - left - right


def _captured(
    site: Site, candidate: Candidate, inputs: Sequence[tuple[Tensor, Tensor | None]], calls: int, pool: Any
) -> torch.cuda.CUDAGraph | None:
    """The graph of ``calls`` calls; ``None`` if this candidate cannot run, which for a sparse one is no error."""
    try:
        first = place(site, candidate).to("cuda")
        # what a format keeps beside its buffers (a library's handle) is shared; its buffers are copies
        modules = [first, *(_copy(first) for _ in inputs[1:])]
        turns = [(modules[i % len(inputs)], *inputs[i % len(inputs)]) for i in range(calls)]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            # each copy, too: some load their kernel when they are called first, which a capture does not allow
            for module, x, residual in turns[: max(WARM_UP, len(inputs))]:
                _call(module, x, residual)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph, pool=pool):
            for module, x, residual in turns:
                _call(module, x, residual)
    except Exception as error:  # a kernel raises whatever its compiler or driver does
        if candidate.format == DENSE and candidate.config.kind == 0:
            raise
        torch.cuda.synchronize()
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"{candidate.describe()} of {site.layer} cannot run and is left out: {first_line}", stacklevel=2)
        return None
    graph.st3_keep = modules  # type: ignore[attr-defined] # the graph reads their buffers
    return graph


def _call(module: nn.Module, x: Tensor, residual: Tensor | None) -> None:
    module(x, residual)


def _copy(module: Placed) -> Placed:
    return copy.deepcopy(module)
