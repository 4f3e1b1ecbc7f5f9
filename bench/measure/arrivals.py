"""The server scenario's clock: pictures arrive at random times, wait in a queue, and are answered in batches."""

from __future__ import annotations

from time import perf_counter, sleep
from typing import TYPE_CHECKING

import numpy as np

from runtime.batches import run_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.measure.messages import Serve
    from runtime.engine import Engine

_SPIN_S = 2e-4  # a sleep may end as late as that


def arrival_times(rate_per_s: float, pictures: int, seed: int) -> NDArray[np.float64]:
    """Seconds from the start at which pictures arrive: a Poisson process, so that gaps are exponential."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, pictures))


def serve(engine: Engine, images_BCHW: NDArray[np.float32], request: Serve) -> tuple[list[float], float, int]:
    """Answer pictures first come, first served; those that wait together share a batch, of at most ``B``.

    Arrivals do not wait for answers: a server that falls behind has a queue that grows, and is given up when its
    first picture has waited for ``patience_s``.

    Args:
        engine: the loaded artifact.
        images_BCHW: pictures to choose from; their number is the largest batch.
        request: rate, number of pictures, patience and seed.

    Returns:
        Milliseconds from arrival to answer, in order; seconds until the last answer; pictures that were given up.
    """
    due = arrival_times(request.rate_per_s, request.pictures, request.seed)
    most = len(images_BCHW)
    latencies_ms: list[float] = []
    start = perf_counter()
    now = 0.0
    first = 0
    while first < len(due):
        _wait_until(start + due[first])
        now = perf_counter() - start
        if now - due[first] > request.patience_s:
            break
        arrived = int(np.searchsorted(due, now, side="right")) - first
        count = min(most, max(1, arrived))
        run_outputs(engine, images_BCHW[:count])
        now = perf_counter() - start
        latencies_ms += ((now - due[first : first + count]) * 1000).tolist()
        first += count
    return latencies_ms, now, len(due) - first


def _wait_until(moment: float) -> None:
    """Sleep, and spin for the last bit."""
    ahead = moment - perf_counter()
    if ahead > _SPIN_S:
        sleep(ahead - _SPIN_S)
    while perf_counter() < moment:
        pass
