"""A running server whose models are replaced and whose workers are killed: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from serve_artifacts import build
from serve_requests import ROWS, ask, error_of, infer, outputs

from bench.serve.client import Address, Load, infer_request
from bench.serve.scenarios import (
    Plan,
    bodies,
    figures,
    get_json,
    graceful_stop,
    killed_worker,
    post,
    reload,
    saturation,
    workers_ready,
)
from bench.serve.server import Server, wait_until
from runtime.engine import load

pytest.importorskip("aiohttp", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")


def test_hot_reload_loses_nothing_and_the_new_weights_answer(served: Path, other: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(served)
    old, new = (load(folder).run({"input": ROWS})["output"] for folder in (served, other))

    async def scenario(server: Server) -> None:
        clients = Load(server.address, [infer_request("model", "input", ROWS[:1])], 8)
        await clients.open()
        np.testing.assert_allclose(outputs(infer(server)), old, rtol=1e-4, atol=1e-5)
        swap = tmp_path / "next"
        swap.symlink_to(other)
        swap.replace(link)
        server.signal(signal.SIGHUP)
        await asyncio.to_thread(wait_until, "version 2", lambda: version(server.address) == "2")
        np.testing.assert_allclose(outputs(infer(server)), new, rtol=1e-4, atol=1e-5)
        server.signal(signal.SIGHUP)  # nothing changed: nothing happens
        await asyncio.sleep(0.5)
        tally = await clients.stop()
        assert version(server.address) == "2"
        assert (tally.lost, tally.errors) == (0, 0)
        assert tally.statuses[200] > 20

    with Server(f"model={link}") as server:
        asyncio.run(scenario(server))
        assert len(server.workers()) == 1


def version(address: Address) -> str:
    return str(get_json(address, "/v2/models/model")["versions"][0])


def test_a_damaged_replacement_leaves_the_old_one_running(served: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "artifact"
    shutil.copytree(served, folder)
    with Server(f"model={folder}", "--control") as server:
        weights = folder / "payload/b1/weights.bin"
        weights.write_bytes(bytes(len(weights.read_bytes())))
        reply = ask(server, "POST /v2/repository/models/model/load HTTP/1.1")
        assert reply.status == 400
        assert "weights.bin" in error_of(reply)
        assert infer(server).status == 200
        assert version(server.address) == "1"


def test_a_worker_of_a_link_that_has_moved_comes_back_with_what_it_had(
    served: Path, other: Path, tmp_path: Path
) -> None:
    link = tmp_path / "current"
    link.symlink_to(served)
    old = load(served).run({"input": ROWS})["output"]
    with Server(f"model={link}") as server:
        link.unlink()
        link.symlink_to(other)
        dead = server.kill_worker()
        wait_until("another worker", lambda: workers_ready(server.address) == 1 and dead not in server.workers())
        np.testing.assert_allclose(outputs(infer(server)), old, rtol=1e-4, atol=1e-5)
        assert figures(server.address)['st3_worker_restarts_total{model="model"}'] == 1


def test_a_replacement_of_another_shape_takes_over(served: Path, tmp_path: Path) -> None:
    wide = build(tmp_path, 2, (1, 8, 12))
    link = tmp_path / "current"
    link.symlink_to(served)
    with Server(f"model={link}", "--control") as server:
        link.unlink()
        link.symlink_to(wide)
        post(server.address, "/v2/repository/models/model/load")
        assert infer(server).status == 400
        rows = np.ones((2, 1, 8, 12), np.float32)
        expected = load(wide).run({"input": rows})["output"]
        np.testing.assert_allclose(outputs(infer(server, rows)), expected, rtol=1e-4, atol=1e-5)


def test_unload_and_load_again(served: Path, other: Path) -> None:
    with Server(f"a={served}", f"b={other}", "--control") as server:
        assert server.models == ["a", "b"]
        post(server.address, "/v2/repository/models/a/unload")
        reply = infer(server, model="a")
        assert reply.status == 404
        assert "it was unloaded" in error_of(reply)
        assert infer(server, model="b").status == 200
        assert ask(server, "GET /v2/health/ready HTTP/1.1").status == 200
        index = json.loads(ask(server, "POST /v2/repository/index HTTP/1.1").body)
        assert index[0] == {"name": "a", "state": "UNAVAILABLE", "reason": "it was unloaded"}
        post(server.address, "/v2/repository/models/a/load")
        assert infer(server, model="a").status == 200


def test_control_is_off_unless_it_is_asked_for(served: Path) -> None:
    with Server(f"model={served}") as server:
        reply = ask(server, "POST /v2/repository/models/model/unload HTTP/1.1")
        assert reply.status == 403
        assert "--control" in error_of(reply)
        assert infer(server).status == 200


def plan(served: Path, seconds: float = 1.5) -> Plan:
    return Plan(str(served), seconds, 16)


def test_load_reload_kill_and_stop_lose_nothing(served: Path) -> None:
    requests = bodies(served, 4)
    outcomes = [
        asyncio.run(saturation(plan(served, 1.0), requests)),
        asyncio.run(reload(plan(served), requests, times=2)),
        asyncio.run(killed_worker(plan(served), requests, times=2)),
        asyncio.run(graceful_stop(plan(served), requests)),
    ]
    assert [outcome.failures for outcome in outcomes] == [()] * 4
    assert outcomes[0].mean_batch > 1.5


def test_a_worker_that_hangs_is_replaced(served: Path) -> None:
    with Server(f"model={served}", "--run-timeout", "0.5") as server:
        hung = server.workers()[0]
        os.kill(hung, signal.SIGSTOP)
        assert infer(server).status == 200  # from the worker that took its place
        assert hung not in server.workers()


def test_a_worker_ends_with_its_front(served: Path) -> None:
    with Server(f"model={served}") as server:
        pids = server.workers()
        server.signal(signal.SIGKILL)
        wait_until("the worker's end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
