"""Everything that is known of each layer of an artifact, put together: manifest, bound, measured time, advice."""

from __future__ import annotations

import difflib
import statistics
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.environment import usable_cpus
from bench.explain.advice import Case, advise
from bench.explain.roofline import Bound, bound, usable_macs
from bench.machine.peaks import line_of
from bench.machine.processor import examine
from bench.machine.speed import known_or_measured
from bench.naming import NATIVE
from runtime.engine import load
from runtime.engines.native import NativeEngine
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.artifact import Artifact, LayerEntry

CALLS = 20
_JOINED = " + "
_NEAR_NAMES = 5


class Explanation(msgspec.Struct, frozen=True):
    """One layer. Times are of a whole batch; ``None`` where nothing is known.

    Attributes:
        layer: the manifest's entry: pattern, density, format, the reason for it.
        macs_usable: multiply-adds per picture that its format executes.
        bound: the least time on this processor.
        measured_us: median time of its step.
        shares_step_with: other layers that run inside the same step, whose time that is too.
        share: of the sum of all steps.
        gflops: useful operations, those of weights that are not zero, per nanosecond; of a step of its own.
        advice: what would make it faster.
    """

    layer: LayerEntry
    macs_usable: int
    bound: Bound | None
    measured_us: float | None
    shares_step_with: tuple[str, ...]
    share: float | None
    gflops: float | None
    advice: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True):
    """The layers that were asked for. ``notes`` say what is not known and why."""

    artifact: str
    device: str
    engine: str
    batch_size: int
    threads: int
    layers: tuple[Explanation, ...]
    notes: tuple[str, ...]


def explain_artifact(artifact: Artifact, threads: int | None, wanted: str | None, measure: bool) -> Answer:
    """Explain one layer, or all.

    Raises:
        UserError: there is no such layer; the message lists names like it.
    """
    manifest = artifact.manifest
    chosen = [find_layer(manifest.layers, wanted)] if wanted is not None else list(manifest.layers)
    count = manifest.target.threads if threads is None else threads
    steps, notes = _steps(artifact, count) if measure else ({}, ["nothing was measured (--no-measure)"])
    bounds, missing = _bounds(artifact, chosen, count)
    total = sum(steps.values())
    layers = [_explanation(artifact, layer, bounds.get(layer.name), steps, total) for layer in chosen]
    return Answer(
        artifact=manifest.name,
        device=manifest.target.device,
        engine=manifest.engine,
        batch_size=manifest.target.batch_size,
        threads=count,
        layers=tuple(layers),
        notes=(*notes, *missing),
    )


def find_layer(layers: Sequence[LayerEntry], name: str) -> LayerEntry:
    """The layer of that name; ``UserError`` that lists the nearest names, or all that there are of few."""
    for layer in layers:
        if layer.name == name:
            return layer
    names = list(dict.fromkeys(layer.name for layer in layers))
    near = difflib.get_close_matches(name, names, n=_NEAR_NAMES, cutoff=0.5) or names[:_NEAR_NAMES]
    more = len(names) - len(near)
    rest = f" and {more} others; without a name all are listed" if more > 0 else ""
    raise UserError(
        f"there is no layer {name!r}; did you mean {', '.join(near)}?{rest}" if names else "it has no layers"
    )


def _explanation(
    artifact: Artifact, layer: LayerEntry, limit: Bound | None, steps: dict[str, float], total: float
) -> Explanation:
    target = artifact.manifest.target
    key = next((names for names in steps if layer.name in names.split(_JOINED)), None)
    measured = steps[key] if key is not None else layer.chosen_us
    share = measured / total if key is not None and measured is not None and total else None
    others = tuple(name for name in (key or "").split(_JOINED) if name not in ("", layer.name))
    flops = 2 * layer.macs_nonzero * target.batch_size
    return Explanation(
        layer=layer,
        macs_usable=usable_macs(layer),
        bound=limit,
        measured_us=measured,
        shares_step_with=others,
        share=share,
        gflops=flops / measured / 1e3 if measured and not others else None,
        # a step of several layers says nothing of how near one of them is to its bound
        advice=advise(Case(layer, target, artifact.manifest.backend, limit, None if others else measured, share)),
    )


def _steps(artifact: Artifact, threads: int) -> tuple[dict[str, float], list[str]]:
    """Median microseconds by the layers of a step, steps without weights by their names; or why there is nothing."""
    if artifact.manifest.engine != NATIVE:
        return {}, [f"the engine {artifact.manifest.engine} does not time its steps; native does"]
    usable = len(usable_cpus())
    if threads > usable:  # their turns would be timed, and not the layers
        return {}, [f"not measured: {threads} threads on {usable} CPUs; give --threads {usable} or fewer"]
    try:
        engine = load(artifact.folder, threads, verify=False)
    except UserError as error:
        return {}, [f"not measured: {error}"]
    assert isinstance(engine, NativeEngine)
    spec = artifact.manifest.input
    inputs = {spec.name: np.load(artifact.folder / "golden" / "inputs.npy", allow_pickle=False)}
    try:
        engine.profile(inputs)
        runs = [engine.profile(inputs) for _ in range(CALLS)]
    finally:
        engine.close()
    found: dict[str, float] = {}
    for index, timed in enumerate(runs[0]):
        name = timed.step.layer or f"step {index}"
        # a module that runs twice has two steps
        found[name] = found.get(name, 0.0) + 1e3 * statistics.median(run[index].ms for run in runs)
    return found, []


def _bounds(artifact: Artifact, layers: Sequence[LayerEntry], threads: int) -> tuple[dict[str, Bound], list[str]]:
    target = artifact.manifest.target
    if target.device != "cpu":
        return {}, ["the bound of a layer on a GPU is not known here; the manifest has what was measured on it"]
    speeds = known_or_measured(threads)
    speed = speeds.of(threads)
    if speed is None:
        reason = speeds.note or f"this machine has not {threads} CPUs for as many threads"
        return {}, [f"the bound is not known: {reason}"]
    last = max((cache.size_bytes or 0 for cache in examine().caches), default=0)
    load = "unknown" if speeds.load_average is None else f"{speeds.load_average:.2f}"
    told = f"peak and bandwidth as measured {speeds.measured} at load {load}; `st3 doctor` measures anew"
    if line_of("registers", target.dtype) not in speed.gflops:
        return {}, [f"the bound is not known: this machine's peak in {target.dtype} was not measured"]
    found = {layer.name: bound(layer, target.batch_size, speed, last, target.dtype) for layer in layers}
    return found, [told]
