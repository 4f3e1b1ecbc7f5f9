"""Chooses each layer's kernel, tile and chunk by running the whole network in several versions and timing every step.

A layer is timed where it will run, between its neighbours, with its weights as cold as they will be; a loop over one
layer alone keeps them in the cache and prefers what is not the fastest. In version ``i`` every layer runs its ``i``-th
candidate, so that a few versions measure all candidates of all layers. The best of each layer meet once more.
"""

from __future__ import annotations

import ctypes
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.native import tuning_cache
from compile.native.builder import Builder
from compile.native.emit import Source, emit
from compile.native.kernel_table import KERNELS
from compile.native.plan import Plan
from compile.native.schedule import Schedule, options, without_joins
from compile.native.trial import open_library, step_times
from compile.native.weights import Packs

Progress = Callable[[str], None]

_CODES = 6  # kernels and tiles per layer that are compiled
_CUTS = 5  # chunk sizes of each; of 50 layers none was fastest with a sixth or seventh
_FINALISTS = 3
_REPEATS = 4
_FINAL_ROUNDS = 6


class Tuner:
    """Measures versions of one plan; ``options`` are each layer's schedules by output name, the model's best first."""

    def __init__(
        self, plan: Plan, options: dict[str, list[Schedule]], builder: Builder, threads: int, packs: Packs
    ) -> None:
        self.plan, self.options, self.builder, self.threads = plan, options, builder, threads
        self.times: dict[str, dict[Schedule, float]] = {name: {} for name in options}
        self.position = plan.positions()
        self.packs = packs

    def versions(self) -> list[list[dict[str, Schedule]]]:
        """Per set of codes the versions that one library runs: the same codes, with several chunk sizes."""
        by_code = {name: _tried(_by_code(schedules)) for name, schedules in self.options.items()}
        found = []
        for index in range(max(len(codes) for codes in by_code.values())):
            chosen = {name: codes[index % len(codes)] for name, codes in by_code.items()}
            count = min(_CUTS, max(len(cuts) for cuts in chosen.values()))
            found.append([{name: cuts[i % len(cuts)] for name, cuts in chosen.items()} for i in range(count)])
        return found

    def measure(self, groups: list[list[dict[str, Schedule]]], rounds: int, report: Progress) -> None:
        """Compile a library per group of versions, then time the versions in turns."""
        sources = [[emit(self.plan, version, self.builder.isa, self.packs) for version in group] for group in groups]
        libraries = _libraries(sources, self.builder, report)
        turns = [(i, j) for _ in range(rounds) for i, group in enumerate(groups) for j in range(len(group))]
        for done, (i, j) in enumerate(turns, start=1):
            times = step_times(libraries[i], sources[i][j].weights(), self.plan, self.threads, _REPEATS)
            self._note(groups[i][j], times)
            report(f"tuning: measured {done} of {len(turns)} versions")

    def _note(self, version: dict[str, Schedule], times: NDArray[np.float64]) -> None:
        for name, schedule in version.items():
            best = self.times[name].get(schedule, float("inf"))
            self.times[name][schedule] = min(best, float(times[self.position[name]]))

    def finalists(self) -> list[list[dict[str, Schedule]]]:
        """The best of each layer, the second best of each, and so on, as versions."""
        ranked = {name: sorted(times, key=times.__getitem__) for name, times in self.times.items()}
        return [[{name: best[min(i, len(best) - 1)] for name, best in ranked.items()}] for i in range(_FINALISTS)]


def _libraries(sources: list[list[Source]], builder: Builder, report: Progress) -> list[ctypes.CDLL]:
    """A library for each group of sources, which share their text. Nothing is compiled once they are there."""
    for group in sources:
        builder.start(group[0])
    packing = list(itertools.chain(*sources))
    for done, source in enumerate(packing, start=1):
        source.weights()  # packed while the compilers run, and remembered
        report(f"tuning: packed {done} of {len(packing)} versions")
    libraries = []
    with tempfile.TemporaryDirectory(prefix="st3-tune-") as folder:
        for done, group in enumerate(sources, start=1):
            libraries.append(open_library(builder.library(group[0], Path(folder) / f"{done}.so")))
            report(f"tuning: compiled {done} of {len(sources)} versions")
    return libraries


def tune(plan: Plan, builder: Builder, threads: int, l1: int, report: Progress) -> tuple[Plan, dict[str, Schedule]]:
    """The fastest schedule of each layer on this machine, and the plan with those joins that pay.

    Args:
        plan: the network's plan; its joins are tried together, and taken if they make the whole network faster.
        builder: compiles for an instruction set, which this machine must have.
        threads: how many threads run.
        l1: bytes of the first-level cache.
        report: is told in words what happens.
    """
    # groups of pictures that run on threads of their own are all alike, so one is measured
    crew, isa = plan.crew_size(threads), builder.isa
    joined = msgspec.structs.replace(plan, groups=1) if crew == 1 else plan
    apart = without_joins(joined)
    keys = {name: tuning_cache.key(plan, step, isa, crew) for name, step in plan.convolutions().items()}
    pairs = tuning_cache.join_key(keys.values())
    ranked = options(plan, isa, l1)
    known = tuning_cache.read()
    if all(key in known.schedules for key in keys.values()) and pairs in known.joins:
        remembered = {name: known.schedules[key] for name, key in keys.items()}
        return (plan if known.joins[pairs] else without_joins(plan)), _with_reasons(remembered, ranked)
    packs = Packs()
    first = Tuner(apart, ranked, builder, crew, packs)
    first.measure(first.versions(), 1, report)
    last = Tuner(apart, first.options, builder, crew, packs)
    last.measure(first.finalists(), _FINAL_ROUNDS, report)
    chosen = {}
    for name, times in last.times.items():
        best = min(times, key=times.__getitem__)
        chosen[name] = msgspec.structs.replace(best, reason=_measured(best, times, first.times[name]))
    pays = bool(plan.joined) and _faster_joined(joined, apart, chosen, builder, crew, packs, report)
    found = tuning_cache.Known({keys[name]: schedule for name, schedule in chosen.items()}, {pairs: pays})
    tuning_cache.write(found)
    return (plan if pays else without_joins(plan)), _with_reasons(chosen, ranked)


def _faster_joined(
    joined: Plan,
    apart: Plan,
    chosen: dict[str, Schedule],
    builder: Builder,
    threads: int,
    packs: Packs,
    report: Progress,
) -> bool:
    report("tuning: trying joined layers")
    plans = (joined, apart)
    sources = [emit(plan, chosen, builder.isa, packs) for plan in plans]
    libraries = _libraries([[source] for source in sources], builder, lambda _: None)
    totals: list[list[float]] = [[], []]
    for _ in range(_FINAL_ROUNDS):
        for i, plan in enumerate(plans):
            totals[i].append(float(step_times(libraries[i], sources[i].weights(), plan, threads, _REPEATS).sum()))
    return min(totals[0]) < min(totals[1])


def _by_code(schedules: list[Schedule]) -> list[list[Schedule]]:
    """Schedules of one code together, those codes first whose best the model prefers."""
    found: dict[tuple[str, int, int, int], list[Schedule]] = {}
    for schedule in schedules:
        found.setdefault(schedule.code, []).append(schedule)
    return list(found.values())


def _tried(codes: list[list[Schedule]]) -> list[list[Schedule]]:
    """The codes that are compiled: the model's best, the dense kernel's best always among them."""
    dense = [code for code in codes if KERNELS[code[0].format].dense]
    first = codes[:_CODES]
    return first if not dense or dense[0] in first else [*first[:-1], dense[0]]


def _with_reasons(chosen: dict[str, Schedule], ranked: dict[str, list[Schedule]]) -> dict[str, Schedule]:
    """What the user reads in the layer table: the layer's own reason, then what was measured."""
    return {
        name: msgspec.structs.replace(schedule, reason=f"{ranked[name][0].reason}; {schedule.reason}")
        for name, schedule in chosen.items()
    }


def _measured(best: Schedule, final: dict[Schedule, float], first: dict[Schedule, float]) -> str:
    """The time of a schedule, and how many times as long the other kernels took in the same round.

    The machine's speed changes between rounds, so times of the two are not set side by side.
    """
    others: dict[str, float] = {}
    for times in (final, first):
        found: dict[str, float] = {}
        for schedule, ms in times.items():
            found[schedule.format] = min(ms / times[best], found.get(schedule.format, ms / times[best]))
        others = {**found, **others}
    slower = "".join(f", {name} {ratio:.2f}x" for name, ratio in others.items() if name != best.format)
    return f"measured {final[best]:.3f} ms{slower}"
