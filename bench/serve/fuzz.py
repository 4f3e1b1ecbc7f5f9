"""Malformed requests by the thousand: the server answers each with a reason or hangs up, and goes on serving."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from bench.serve.client import Load
from bench.serve.malformed import exchange, malformed
from runtime.artifact import open_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from bench.serve.malformed import Reply
    from bench.serve.server import Server

_AT_ONCE = 64
_TIMEOUT_S = 20.0
_MOST_GROWTH_MIB = 64.0


class FuzzOutcome(msgspec.Struct, frozen=True):
    """What came of them. ``statuses`` hold 0 for connections that were closed without an answer."""

    requests: int
    seconds: float
    statuses: dict[int, int]
    growth_mib: dict[str, float]
    failures: tuple[str, ...]


def fuzz(server: Server, model: str, artifact: Path, good: bytes, count: int, seed: int = 0) -> FuzzOutcome:
    """Send ``count`` malformed requests, then a good one from each of eight clients.

    Memory counts from after the first tenth: by then every buffer has been needed once.
    """
    spec = open_artifact(artifact, verify=False).manifest.input
    pids = server.workers()
    statuses: Counter[int] = Counter()
    failures: list[str] = []

    def one(number: int) -> tuple[int, Reply]:
        request = malformed(seed + number, model, spec.name, spec.shape[1:])
        return seed + number, exchange(server.address, request, _TIMEOUT_S)

    began = time.monotonic()
    before = server.rss_bytes()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for done, (number, reply) in enumerate(threads.map(one, range(count))):
            statuses[reply.status] += 1
            if done == count // 10:
                before = server.rss_bytes()
            failures += _complaints(number, reply)
    growth = {key: (size - before[key]) / 2**20 for key, size in server.rss_bytes().items()}
    failures += [f"the {key} grew by {mib:.1f} MiB" for key, mib in growth.items() if mib > _MOST_GROWTH_MIB]
    if not server.running or server.workers() != pids:
        failures.append(
            f"the server or a worker died: workers {pids} are {server.workers() if server.running else 'gone'}"
        )
    log = server.log()
    if "Traceback" in log:
        failures.append(f"a traceback in the server's log: {log[log.index('Traceback') :][:2000]}")
    tally = asyncio.run(Load(server.address, [good], 8).run(0.5))
    if not tally.statuses[200] or tally.errors or tally.lost:
        failures.append(f"good requests afterwards: {dict(tally.statuses)}, {tally.lost} lost")
    return FuzzOutcome(count, time.monotonic() - began, dict(sorted(statuses.items())), growth, tuple(failures))


def _complaints(number: int, reply: Reply) -> list[str]:
    if reply.status == -1:
        return [f"request {number} was not answered within {_TIMEOUT_S:g} s"]
    if reply.status >= 500:
        return [f"request {number} was answered {reply.status}: {reply.body[:200]!r}"]
    return []
