"""Mixed traffic for a long time, and the memory of every process meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.serve.client import Load, infer_request
from bench.serve.malformed import exchange, malformed
from bench.serve.scenarios import post
from runtime.artifact import open_artifact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.serve.client import Tally
    from bench.serve.server import Server

_SAMPLE_S = 5.0
_WARM = 0.2  # of the time, before memory counts
_MOST_GROWTH = 0.05


class SoakOutcome(msgspec.Struct, frozen=True):
    """``growth`` is of the medians of the last and the first fifth after the warm-up, as a fraction."""

    seconds: float
    answered: int
    errors: int
    lost: int
    malformed: int
    reloads: int
    rss_mib: dict[str, list[float]]
    growth: dict[str, float]
    failures: tuple[str, ...]


async def soak(
    server: Server,
    model: str,
    artifact: Path,
    seconds: float,
    clients: int,
    pause_s: float,
    say: Callable[[str], None],
) -> SoakOutcome:
    """Binary and JSON requests of one and of many rows, a malformed one now and then, and a reload ten times in all.

    Args:
        server: it, running, with ``--control``.
        model: the name that the artifact is served by.
        artifact: the artifact, for its shapes.
        seconds: how long.
        clients: connections at once.
        pause_s: what a client waits between two requests.
        say: takes a line of progress a minute.
    """
    spec = open_artifact(artifact, verify=False).manifest.input
    load = Load(server.address, _mixed(model, spec.name, spec.shape), clients, pause_s)
    await load.open()
    samples: list[dict[str, int]] = []
    bad = reloads = 0
    began = said = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        await asyncio.sleep(min(_SAMPLE_S, seconds / 40))
        samples.append(server.rss_bytes())
        request = malformed(bad, model, spec.name, spec.shape[1:])
        await asyncio.to_thread(exchange, server.address, request, 20.0)
        bad += 1
        if now > seconds * (reloads + 1) / 11:
            await asyncio.to_thread(post, server.address, f"/v2/repository/models/{model}/load")
            reloads += 1
        if time.monotonic() - said > 60:
            said = time.monotonic()
            say(f"{now:.0f} s: {load.tally.statuses[200]} answered, RSS {samples[-1]}")
    tally = await load.stop()
    return _outcome(tally, samples, time.monotonic() - began, bad, reloads)


def _outcome(tally: Tally, samples: list[dict[str, int]], seconds: float, bad: int, reloads: int) -> SoakOutcome:
    """What clients saw, and the memory of each process over time, in bytes in ``samples``."""
    growth = {key: _growth([sample[key] for sample in samples]) for key in samples[0]}
    failures = [f"{key}: memory grew by {part:.1%}" for key, part in growth.items() if part > _MOST_GROWTH]
    if tally.errors or tally.lost:
        failures.append(f"{dict(tally.statuses)}, {tally.lost} lost")
    return SoakOutcome(
        seconds=seconds,
        answered=tally.statuses[200],
        errors=tally.errors,
        lost=tally.lost,
        malformed=bad,
        reloads=reloads,
        rss_mib={key: [round(sample[key] / 2**20, 2) for sample in samples] for key in samples[0]},
        growth=growth,
        failures=tuple(failures),
    )


def _mixed(model: str, name: str, shape: tuple[int, ...]) -> list[bytes]:
    generator = np.random.default_rng(0)
    requests = []
    for rows in (1, 1, max(1, shape[0] // 2), 1, shape[0]):
        array = generator.standard_normal((rows, *shape[1:])).astype(np.float32)
        requests += [infer_request(model, name, array), infer_request(model, name, array[:1], as_json=True)]
    return requests


def _growth(sizes: list[int]) -> float:
    settled = sizes[int(len(sizes) * _WARM) :]
    fifth = max(1, len(settled) // 5)
    first, last = float(np.median(settled[:fifth])), float(np.median(settled[-fifth:]))
    return last / first - 1.0
