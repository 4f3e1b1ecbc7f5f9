"""Which kernels a layer could run in, and why a format is not among them."""

from __future__ import annotations

import hashlib
import math

import msgspec

from compile.cuda.choice import Candidate
from compile.cuda.format import DENSE, find_format, format_names
from compile.cuda.problem import ConvProblem
from compile.cuda.sites import Site

_DENSITY_STEPS = 32  # layers whose usable multiply-adds differ by less than this fraction of a factor e are alike


class Offer(msgspec.Struct, frozen=True):
    """All that a layer could be.

    Attributes:
        candidates: by format, each format's best guess first; ``dense`` is always there.
        macs_usable: multiply-adds that each of these formats executes, whole batch.
        refusals: why each other format is not there.
    """

    candidates: dict[str, tuple[Candidate, ...]]
    macs_usable: dict[str, int]
    refusals: dict[str, str]

    def fingerprint(self, problem: ConvProblem) -> str:
        """Digest of what decides how fast the candidates are: layers that share it are measured once."""
        work = {name: round(math.log(max(macs, 1)) * _DENSITY_STEPS) for name, macs in self.macs_usable.items()}
        return hashlib.sha256(repr((problem, sorted(work.items()))).encode()).hexdigest()


def offer(site: Site, most: int, formats: tuple[str, ...] | None = None) -> Offer:
    """Ask every format.

    Args:
        site: the layer.
        most: configurations that are taken of a format.
        formats: those to be asked beside dense; all if not given.
    """
    wanted = format_names() if formats is None else [DENSE, *formats]
    candidates: dict[str, tuple[Candidate, ...]] = {}
    refusals: dict[str, str] = {}
    macs: dict[str, int] = {}
    for name in sorted(set(wanted)):
        form = find_format(name)
        problem, reason = _accepted(site, name)
        configs = form.configs(problem)[:most] if problem is not None else ()
        if problem is None or not configs:
            refusals[name] = reason or "no kernel for this shape"
            continue
        candidates[name] = tuple(Candidate(name, config, problem) for config in configs)
        macs[name] = form.macs_usable(site.weight, problem)
    assert DENSE in candidates, site.layer
    return Offer(candidates, macs, refusals)


def _accepted(site: Site, name: str) -> tuple[ConvProblem | None, str | None]:
    """The problem that a format takes: the layer's own, or without what then follows as plain ops."""
    form = find_format(name)
    first = None
    for problem in variants(site.problem):
        reason = form.reject(site.weight, problem)
        if reason is None:
            return problem, None
        first = first or reason
    return None, first


def variants(problem: ConvProblem) -> tuple[ConvProblem, ...]:
    """The problem, and the same without activation and residual, which can follow as plain ops."""
    bare = msgspec.structs.replace(problem, activation="identity", residual=False)
    if problem.residual and problem.activation != "identity":
        # an activation after a sum cannot stay inside an op that leaves the sum out
        return problem, msgspec.structs.replace(problem, activation="identity"), bare
    return (problem,) if problem == bare else (problem, bare)
