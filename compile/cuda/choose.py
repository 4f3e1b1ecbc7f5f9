"""One choice per layer: by what was measured on this machine, or by the cost model."""

from __future__ import annotations

from collections.abc import Mapping

from compile.cuda import cost_model
from compile.cuda.candidates import Offer
from compile.cuda.choice import Candidate, Choice
from compile.cuda.format import DENSE
from compile.cuda.formats.dense import PLAIN
from compile.cuda.sites import Site
from compile.cuda.tuning_cache import Timing

MODELLED = "by the cost model, nothing was measured"
_CLEARLY = 0.9  # of dense's time: what a model that may be off by more promises in less is not worth a kernel


def by_model(site: Site, offered: Offer, arch: str) -> Choice:
    """The format that the roofline prefers, in the configuration that it guesses best."""
    times = {
        name: cost_model.layer_us(name, site.problem, offered.macs_usable[name], arch) for name in offered.candidates
    }
    best = min(times, key=lambda name: (times[name], name != DENSE))
    if times[best] > _CLEARLY * times[DENSE]:
        best = DENSE
    dense = _first_dense(offered)
    others = "; ".join(f"{name}: {reason}" for name, reason in offered.refusals.items())
    modelled = ", ".join(f"{name} {us:.1f} us" for name, us in times.items())
    return Choice(
        candidate=dense if best == DENSE else offered.candidates[best][0],
        reason=_joined(f"{MODELLED}: {modelled}", others),
        dense=dense,
        macs_usable=offered.macs_usable[best],
    )


def _first_dense(offered: Offer) -> Candidate:
    """Torch's own ops, which Inductor fuses: the safest guess without a measurement."""
    return next(c for c in offered.candidates[DENSE] if c.config.kind == PLAIN)


def by_measurement(offered: Offer, timings: Mapping[Candidate, Timing]) -> Choice:
    """The fastest; a sparse kernel has to beat the best dense one by more than both medians are uncertain."""
    dense = min((c for c in timings if c.format == DENSE), key=lambda c: timings[c].us)
    sparse = [c for c in timings if c.format != DENSE]
    best = min(sparse, key=lambda c: timings[c].us, default=dense)
    noise = max(timings[dense].noise_us, timings[best].noise_us)
    wins = best is not dense and timings[best].us < timings[dense].us - noise
    chosen = best if wins else dense
    others = "; ".join(f"{name}: {reason}" for name, reason in offered.refusals.items())
    return Choice(
        candidate=chosen,
        reason=_joined(_measured(timings, noise), others),
        dense=dense,
        dense_us=timings[dense].us,
        chosen_us=timings[chosen].us,
        macs_usable=offered.macs_usable[chosen.format],
    )


def _measured(timings: Mapping[Candidate, Timing], noise: float) -> str:
    """The best time of each format."""
    best: dict[str, float] = {}
    for candidate, timing in timings.items():
        best[candidate.format] = min(timing.us, best.get(candidate.format, timing.us))
    listed = ", ".join(f"{name} {us:.2f}" for name, us in sorted(best.items(), key=lambda item: item[1]))
    return f"measured {listed} us (noise {noise:.2f})"


def _joined(first: str, second: str) -> str:
    return f"{first}; {second}" if second else first
