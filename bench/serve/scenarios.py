"""What is done to a server under load, one function each; every one of them says what it counted."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench.serve.client import Load, infer_request
from bench.serve.server import Server, wait_until
from runtime.artifact import open_artifact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from bench.serve.client import Address, Tally

_NAME = "model"


class Plan(msgspec.Struct, frozen=True):
    """How hard: seconds of each scenario, clients at once, arguments of the server beside the artifact."""

    artifact: str
    seconds: float = 60.0
    clients: int = 64
    arguments: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """One scenario. ``failures`` say in words what must not have happened and did; empty is well."""

    scenario: str
    seconds: float
    clients: int
    answered: int
    errors: int
    lost: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    mean_batch: float
    failures: tuple[str, ...] = ()
    note: str = ""


def bodies(artifact: Path, count: int = 16) -> list[bytes]:
    """Requests of one picture each, of random numbers, for a model served as ``model``."""
    spec = open_artifact(artifact, verify=False).manifest.input
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((count, 1, *spec.shape[1:])).astype(np.float32)
    return [infer_request(_NAME, spec.name, row) for row in rows]


def start(plan: Plan, *more: str) -> Server:
    """The server of a plan; reload over HTTP is on."""
    return Server(f"{_NAME}={plan.artifact}", "--control", *plan.arguments, *more)


async def saturation(plan: Plan, requests: Sequence[bytes], max_batch: int | None = None) -> Outcome:
    """All clients as fast as they are answered."""
    limit = () if max_batch is None else ("--max-batch", str(max_batch))
    with start(plan, *limit) as server:
        await Load(server.address, requests, plan.clients).run(min(2.0, plan.seconds / 5))  # warm
        rows, runs = _batches(server.address)
        began = time.monotonic()
        tally = await Load(server.address, requests, plan.clients).run(plan.seconds)
        seconds = time.monotonic() - began
        more_rows, more_runs = _batches(server.address)
    name = "saturation" if max_batch is None else f"saturation, batch {max_batch}"
    return _outcome(name, plan, seconds, tally, (more_rows - rows) / max(1.0, more_runs - runs))


async def reload(plan: Plan, requests: Sequence[bytes], times: int = 5) -> Outcome:
    """The model is loaded again and again under load; nothing may be lost or refused."""

    async def disturb(server: Server) -> str:
        for _ in range(times):
            await asyncio.sleep(plan.seconds / (times + 1))
            await asyncio.to_thread(post, server.address, f"/v2/repository/models/{_NAME}/load")
        version = (await asyncio.to_thread(get_json, server.address, f"/v2/models/{_NAME}"))["versions"][0]
        return f"version {version} after {times} reloads"

    return await _disturbed("hot reload", plan, requests, disturb, ())


async def killed_worker(plan: Plan, requests: Sequence[bytes], times: int = 3) -> Outcome:
    """A worker of two is ended with SIGKILL, again and again; its batch runs elsewhere and it comes back."""

    async def disturb(server: Server) -> str:
        for _ in range(times):
            await asyncio.sleep(plan.seconds / (times + 1))
            server.kill_worker()
        await asyncio.to_thread(wait_until, "two workers", lambda: workers_ready(server.address) == 2)
        return f"{times} workers killed, 2 ready at the end"

    return await _disturbed("kill -9 of a worker", plan, requests, disturb, ("--workers", "2"))


async def graceful_stop(plan: Plan, requests: Sequence[bytes]) -> Outcome:
    """SIGTERM under load: every request that was sent is answered, and the exit status is 0."""
    with start(plan) as server:
        load = Load(server.address, requests, plan.clients)
        await load.open()
        began = time.monotonic()
        await asyncio.sleep(plan.seconds / 4)
        load.leave = True
        server.signal(signal.SIGTERM)
        status = await asyncio.to_thread(server.wait, 60.0)
        tally = await load.stop()
        seconds = time.monotonic() - began
    outcome = _outcome("graceful stop", plan, seconds, tally, 0.0)
    failures = outcome.failures if status == 0 else (*outcome.failures, f"exit status {status}")
    return msgspec.structs.replace(outcome, failures=failures, note=f"exit status {status}")


async def _disturbed(
    name: str,
    plan: Plan,
    requests: Sequence[bytes],
    disturb: Callable[[Server], Awaitable[str]],
    arguments: tuple[str, ...],
) -> Outcome:
    with start(plan, *arguments) as server:
        load = Load(server.address, requests, plan.clients)
        await load.open()
        began = time.monotonic()
        note = await disturb(server)
        await asyncio.sleep(max(0.0, plan.seconds - (time.monotonic() - began)))
        seconds = time.monotonic() - began
        tally = await load.stop()
        rows, runs = _batches(server.address)
        alive = server.running
    outcome = _outcome(name, plan, seconds, tally, rows / max(1.0, runs))
    failures = outcome.failures if alive else (*outcome.failures, "the server is dead")
    return msgspec.structs.replace(outcome, failures=failures, note=note)


def _outcome(name: str, plan: Plan, seconds: float, tally: Tally, mean_batch: float) -> Outcome:
    failures = []
    if tally.errors:
        failures.append(f"{tally.errors} errors: {dict(tally.statuses)}")
    if tally.lost:
        failures.append(f"{tally.lost} requests lost")
    if not tally.statuses[200]:
        failures.append("nothing was answered")
    return Outcome(
        scenario=name,
        seconds=seconds,
        clients=plan.clients,
        answered=tally.statuses[200],
        errors=tally.errors,
        lost=tally.lost,
        requests_per_s=tally.statuses[200] / seconds,
        p50_ms=tally.percentile_ms(50),
        p99_ms=tally.percentile_ms(99),
        mean_batch=mean_batch,
        failures=tuple(failures),
    )


def post(address: Address, path: str) -> None:
    """POST an empty body; raises ``HTTPError`` where the status is an error."""
    request = urllib.request.Request(f"http://{address.host}:{address.port}{path}", b"", method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - http, and the host is ours
        answer.read()


def get(address: Address, path: str) -> str:
    """GET a page."""
    with urllib.request.urlopen(f"http://{address.host}:{address.port}{path}", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def get_json(address: Address, path: str) -> Any:
    """GET a JSON document."""
    return json.loads(get(address, path))


def figures(address: Address) -> dict[str, float]:
    """Every sample of ``/metrics`` by its name and labels."""
    lines = [line for line in get(address, "/metrics").splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def workers_ready(address: Address) -> int:
    """How many workers of all models are warm."""
    return int(sum(value for name, value in figures(address).items() if name.startswith("st3_workers_ready")))


def _batches(address: Address) -> tuple[float, float]:
    found = figures(address)
    label = f'{{model="{_NAME}"}}'
    return found.get(f"st3_batch_rows_sum{label}", 0.0), found.get(f"st3_batch_rows_count{label}", 0.0)
