"""Measures the kernels that each layer could run in, on the GPU at hand, and keeps the fastest.

Layers of one problem whose weights leave each format as much to do are measured once. All candidates of a layer take
turns, so that what drifts drifts for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from compile.cuda import tuning_cache
from compile.cuda.candidates import Offer
from compile.cuda.choice import Candidate
from compile.cuda.sites import Site
from compile.cuda.tuning_cache import Timing

Progress = Callable[[str], None]


class Stopwatch(Protocol):
    """Whoever times candidates of a layer."""

    def prepare(self, wanted: Sequence[tuple[Site, Candidate]]) -> None:
        """Compile what will be measured."""

    def measure(self, site: Site, candidates: Sequence[Candidate]) -> dict[Candidate, Timing]:
        """The timing of each candidate; one that cannot run is left out, but never all that are dense."""


def measure_all(
    sites: Mapping[str, Site], offers: Mapping[str, Offer], stopwatch: Stopwatch, report: Progress
) -> dict[str, dict[Candidate, Timing]]:
    """Timings by layer, from the cache or the stopwatch.

    Args:
        sites: the layers by output.
        offers: what each could be.
        stopwatch: who measures.
        report: is told in words what happens.
    """
    keys = {name: tuning_cache.key(site.problem, offers[name]) for name, site in sites.items()}
    known = tuning_cache.read()
    new = [name for index, name in enumerate(sites) if keys[name] not in known and _first(keys, name) == index]
    candidates = {name: [c for found in offers[name].candidates.values() for c in found] for name in new}
    if new:
        report(f"compiling kernels for {len(new)} kinds of layers")
        stopwatch.prepare([(sites[name], candidate) for name in new for candidate in candidates[name]])
    for done, name in enumerate(new, start=1):
        report(f"measuring {sites[name].layer}, {done} of {len(new)} kinds of layers")
        timings = stopwatch.measure(sites[name], candidates[name])
        found = {keys[name]: {candidate.describe(): timing for candidate, timing in timings.items()}}
        known |= found
        tuning_cache.write(found)  # after each layer: a run that is cut off goes on from there
    return {name: _timings(offers[name], known[keys[name]]) for name in sites}


def _first(keys: Mapping[str, str], name: str) -> int:
    """Position of the first layer that has the key of this one."""
    return list(keys.values()).index(keys[name])


def _timings(offered: Offer, known: Mapping[str, Timing]) -> dict[Candidate, Timing]:
    """With the layer's own candidates, whose problem is equal but whose weight is not."""
    found = [candidate for candidates in offered.candidates.values() for candidate in candidates]
    return {candidate: known[candidate.describe()] for candidate in found if candidate.describe() in known}


def spread(samples: Sequence[float]) -> Timing:
    """Median, and half the distance of the quartiles: what a median of a few turns may be off by."""
    ordered = sorted(samples)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return Timing(us=ordered[len(ordered) // 2], noise_us=(high - low) / 2)


class Budget(msgspec.Struct, frozen=True):
    """How much is measured. ``most`` configurations of a format, ``finalists`` of them again, in ``rounds`` turns."""

    most: int = 12
    finalists: int = 3
    rounds: int = 15
