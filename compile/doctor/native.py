"""Measures on this CPU from which sparsity on native's formats beat its own dense kernels and ONNX Runtime.

Layers of every sparsity form one chain, so that a library runs them all and one compilation serves all sparsities. Each
format has a few versions of the chain, one per tile; all versions and ONNX Runtime take turns.
"""

from __future__ import annotations

import ctypes
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from compile.doctor.expectation import Curve, Dense, Expectation, Point, curve
from compile.doctor.layer import BLOCKS, KERNELS, UNSTRUCTURED, Layer, chain
from compile.doctor.onnxruntime_dense import ENGINE as ONNXRUNTIME
from compile.doctor.onnxruntime_dense import Yardstick, yardsticks
from compile.native.builder import Builder
from compile.native.channel_layout import channel_plan
from compile.native.emit import Source, emit
from compile.native.isa import Isa, cache_bytes, isa_for
from compile.native.plan import Plan
from compile.native.schedule import Schedule, options, without_joins
from compile.native.select import pixel_plan
from compile.native.toolchain import compiler
from compile.native.trial import open_library, step_times
from compile.native.weights import Packs

Progress = Callable[[str, float], None]
"""Is told what happens, and which share of it all is done."""

NATIVE = "native"
_SPARSITIES = {UNSTRUCTURED: (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98), BLOCKS: (0.25, 0.5, 0.8, 0.9, 0.95)}
_DENSE_COPIES = 3  # of each layer in the chain of dense ones
_TILES = 2  # of each format; the model's best is not always the fastest
_ROUNDS = 7
_REPEATS = 4
_COMPILING = 0.7  # the share of the time that compiling takes


class Version(msgspec.Struct, frozen=True):
    """A chain in one format and tile: the layers that are its own, and the schedule of all."""

    plan: Plan
    layers: dict[str, Layer]
    schedules: dict[str, Schedule]
    source: Source


def expect(report: Progress = lambda _text, _done: None) -> Expectation:
    """Compile and measure; some 20 seconds on two idle cores. Without ONNX Runtime there is a note in its place.

    Raises:
        UserError: there is no C++ compiler.
    """
    compiler()
    isa = isa_for(NATIVE)
    packs = Packs()
    versions = list(_versions(isa, packs))
    others, notes = yardsticks(_REPEATS)
    with Builder(isa) as builder, tempfile.TemporaryDirectory(prefix="st3-doctor-") as folder:
        for version in versions:
            builder.start(version.source)
        libraries = []
        for done, version in enumerate(versions):
            report("compiling kernels", _COMPILING * done / len(versions))
            libraries.append(open_library(builder.library(version.source, Path(folder) / f"{done}.so")))
        times = _take_turns(versions, libraries, others, report)
    return Expectation(
        device="cpu",
        conditions=f"{isa.name}, float32, batch 1, 1 thread; medians of {_ROUNDS} rounds in turns",
        dense=(dense := tuple(_dense(times))),
        curves=tuple(_curves(times, dense)),
        notes=notes,
    )


def _versions(isa: Isa, packs: Packs) -> Iterator[Version]:
    """Sparse layers in every format that takes them, dense ones with pixels and with channels in the lanes."""
    sparse = [Layer(k, s, weights) for k in KERNELS for weights, found in _SPARSITIES.items() for s in found]
    dense = [Layer(kernel) for kernel in KERNELS for _ in range(_DENSE_COPIES)]
    l2 = cache_bytes(2, isa)
    yield from _of_plan(sparse, without_joins(pixel_plan(chain(sparse), 1, 1, isa, l2)), isa, packs, leave="dense")
    graph = chain(dense)
    for plan in (pixel_plan(graph, 1, 1, isa, l2), channel_plan(graph, 1, isa)):
        yield from _of_plan(dense, without_joins(plan), isa, packs)


def _of_plan(layers: list[Layer], plan: Plan, isa: Isa, packs: Packs, leave: str = "") -> Iterator[Version]:
    """Per format the versions of a chain; a layer that a format does not take runs in another and is not counted."""
    names = {f"c{index}": layer for index, layer in enumerate(layers)}
    tiles = {
        name: {form: best[:_TILES] for form, best in _by_format(ranked).items() if form != leave}
        for name, ranked in options(plan, isa, cache_bytes(1, isa)).items()
    }
    for form in sorted({form for found in tiles.values() for form in found}):
        for index in range(_TILES):
            schedules = {}
            for name, found in tiles.items():
                best = found.get(form) or next(iter(found.values()))
                schedules[name] = best[min(index, len(best) - 1)]
            own = {name: layer for name, layer in names.items() if schedules[name].format == form}
            yield Version(plan, own, schedules, emit(plan, schedules, isa, packs))


def _by_format(ranked: list[Schedule]) -> dict[str, list[Schedule]]:
    """The best schedule of each tile, by format."""
    found: dict[str, dict[tuple[str, int, int, int], Schedule]] = {}
    for schedule in ranked:
        found.setdefault(schedule.format, {}).setdefault(schedule.code, schedule)
    return {form: list(tiles.values()) for form, tiles in found.items()}


Times = dict[tuple[Layer, str], float]
"""By layer and format, microseconds of the fastest version."""


def _take_turns(
    versions: list[Version], libraries: list[ctypes.CDLL], others: tuple[Yardstick, ...], report: Progress
) -> Times:
    """In each round the shortest of a few runs of everybody; then the median over the rounds, and the best tile."""
    samples: dict[tuple[int, str], list[float]] = {}
    ours: dict[Layer, list[float]] = {other.layer: [] for other in others}
    for done in range(_ROUNDS):
        report("measuring", _COMPILING + (1 - _COMPILING) * done / _ROUNDS)
        for index, (version, library) in enumerate(zip(versions, libraries, strict=True)):
            ms = step_times(library, version.source.weights(), version.plan, 1, _REPEATS)
            positions = version.plan.positions()
            for name in version.layers:
                samples.setdefault((index, name), []).append(1000 * float(ms[positions[name]]))
        for other in others:
            ours[other.layer].append(other.us())
    report("measured", 1.0)
    found: Times = {(layer, ONNXRUNTIME): statistics.median(us) for layer, us in ours.items()}
    for (index, name), us in samples.items():
        version = versions[index]
        key = version.layers[name], version.schedules[name].format
        found[key] = min(statistics.median(us), found.get(key, float("inf")))
    return found


def _dense(times: Times) -> Iterator[Dense]:
    """Our own fastest dense kernel, and ONNX Runtime."""
    for kernel in KERNELS:
        layer = Layer(kernel)
        own = [us for (which, form), us in times.items() if which == layer and form != ONNXRUNTIME]
        yield Dense(layer.title, NATIVE, min(own))
        if (layer, ONNXRUNTIME) in times:
            yield Dense(layer.title, ONNXRUNTIME, times[layer, ONNXRUNTIME])


def _curves(times: Times, dense: tuple[Dense, ...]) -> Iterator[Curve]:
    """Every format that ran sparse layers; on blocks only the one that is made for them."""
    points: dict[tuple[str, str, str], list[Point]] = {}
    for (layer, form), us in times.items():
        if layer.sparsity and (layer.weights == BLOCKS) == (form == "block_stream"):
            points.setdefault((layer.title, form, layer.weights), []).append(Point(layer.sparsity, us))
    for (title, form, weights), found in points.items():
        yield curve(title, form, weights, found, dense)
