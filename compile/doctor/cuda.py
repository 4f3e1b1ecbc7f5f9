"""Measures on this GPU from which sparsity on each sparse format beats the best dense kernel of the same layer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from compile.doctor.expectation import Curve, Dense, Expectation, Point, curve
from compile.doctor.layer import CHANNELS, KERNELS, SIDE, TWO_OF_FOUR, UNSTRUCTURED, Layer

if TYPE_CHECKING:
    from compile.cuda.sites import Site
    from compile.cuda.tune import Stopwatch

BATCH = 32
DTYPE = "float16"
_SPARSITIES = (0.95, 0.98, 0.99, 0.995)  # below these no format for unstructured weights takes a float16 layer
_CONFIGS = 4  # of a format; the tuner tries three times as many
_FINALISTS, _ROUNDS = 2, 9


def expect(report: Callable[[str, float], None] = lambda _text, _done: None) -> Expectation:
    """Measure on the first GPU; some 20 seconds where the kernels have been compiled before.

    Raises:
        UserError: torch finds no GPU.
    """
    from compile.cuda.arch import gpu_architecture
    from compile.cuda.stopwatch import GpuStopwatch
    from compile.cuda.tune import Budget
    from runtime.cuda import gpu

    arch = gpu_architecture("native")
    gpu.prepare(DTYPE)
    stopwatch = GpuStopwatch(Budget(most=_CONFIGS, finalists=_FINALISTS, rounds=_ROUNDS))
    return measure(stopwatch, f"{gpu.name()} ({arch})", report)


def measure(stopwatch: Stopwatch, device: str, report: Callable[[str, float], None]) -> Expectation:
    """Every format that takes a layer against dense in the same turns; what none takes is in the notes."""
    from compile.cuda.candidates import offer
    from compile.cuda.format import DENSE

    layers = [Layer(kernel, 0.5, TWO_OF_FOUR) for kernel in KERNELS]
    layers += [Layer(kernel, sparsity) for kernel in KERNELS for sparsity in _SPARSITIES]
    dense: dict[str, list[float]] = {}
    points: dict[tuple[str, str, str], list[Point]] = {}
    refusals: dict[str, None] = {}
    for done, layer in enumerate(layers):
        report(f"measuring {layer.weights} weights, {layer.kernel}x{layer.kernel}", done / len(layers))
        site = site_of(layer)
        offered = offer(site, _CONFIGS)
        candidates = [candidate for found in offered.candidates.values() for candidate in found]
        stopwatch.prepare([(site, candidate) for candidate in candidates])
        best: dict[str, float] = {}
        for candidate, timing in stopwatch.measure(site, candidates).items():
            best[candidate.format] = min(timing.us, best.get(candidate.format, timing.us))
        dense.setdefault(layer.title, []).append(best.pop(DENSE))
        for form, us in best.items():
            points.setdefault((layer.title, form, layer.weights), []).append(Point(layer.sparsity, us))
        refusals |= dict.fromkeys(f"{layer.weights} {layer.sparsity:g}, {n}: {r}" for n, r in offered.refusals.items())
    report("measured", 1.0)
    baselines = tuple(Dense(title, DENSE, statistics.median(us)) for title, us in dense.items())
    curves = tuple(_curve(key, found, baselines) for key, found in points.items())
    taken = {found.form for found in curves}
    return Expectation(
        device=device,
        conditions=f"{DTYPE}, batch {BATCH}, channels last; medians in turns, CUDA graphs, cold tensors",
        dense=baselines,
        curves=curves,
        notes=tuple(line for line in refusals if line.split(", ", 1)[1].partition(":")[0] not in taken),
    )


def _curve(key: tuple[str, str, str], points: list[Point], dense: tuple[Dense, ...]) -> Curve:
    title, form, weights = key
    return curve(title, form, weights, points, dense)


def site_of(layer: Layer) -> Site:
    """The layer as a place in a network on a GPU."""
    import torch

    from compile.cuda.problem import ConvProblem
    from compile.cuda.sites import Site

    problem = ConvProblem(
        batch=BATCH,
        channels=CHANNELS,
        height=SIDE,
        width=SIDE,
        outputs=CHANNELS,
        kernel=(layer.kernel, layer.kernel),
        padding=(layer.kernel // 2, layer.kernel // 2),
        activation="relu",
        dtype=DTYPE,
    )
    assert layer.weights in (UNSTRUCTURED, TWO_OF_FOUR), layer
    return Site("layer", layer.title, torch.from_numpy(layer.weight()), torch.full((CHANNELS,), 0.01), problem)
