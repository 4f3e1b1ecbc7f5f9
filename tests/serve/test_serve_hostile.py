"""What an attacker does that is no single malformed request, and artifacts that mean harm to their server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.serve.client import infer_request
from bench.serve.malformed import exchange
from bench.serve.server import Server, wait_until
from runtime.errors import ArtifactError, UserError
from runtime.serve.models import find
from runtime.serve.pool import Pool, PoolEvents, Worker
from runtime.serve.wire import Shape, Start

pytest.importorskip("aiohttp", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

SAMPLE = Path(__file__).parents[1] / "runtime/schemas/3/native"
POST = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\n"
HIDDEN = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def alive(server: Server) -> bool:
    request = infer_request("model", "input", np.ones((1, 1, 8, 8), np.float32), as_json=True)
    return exchange(server.address, request.replace(b"Host: load", b"Host: x\r\nConnection: close"), 20.0).status == 200


def received(connection: socket.socket, seconds: float = 20.0) -> bytes:
    connection.settimeout(seconds)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 20):
            found += part
    return found


@pytest.mark.parametrize(
    "start",
    [
        POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(HIDDEN)),
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: +0\r\n\r\n",
        POST + b"Content-Length: 0, 0\r\n\r\n",
        POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        POST + b"Content-Length: 1_0\r\n\r\n0123456789",
        POST.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
        POST + b"X: a\rContent-Length: 9\r\n\r\n",
        POST + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
        CHUNKED + b"+0\r\n\r\n",
        CHUNKED + b"0x0\r\n\r\n",
        CHUNKED + b"0\n\n",
        CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_a_request_hidden_behind_one_of_doubtful_length_is_not_answered(server: Server, start: bytes) -> None:
    """Two servers that take such a request to end at different places would answer one client's with another's."""
    with socket.create_connection((server.address.host, server.address.port)) as connection:
        connection.sendall(start + HIDDEN)
        answer = received(connection)
    statuses = [line.split(b" ")[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    assert statuses in ([b"400"], [])  # a reset may overtake the answer, as we have sent more than was read


def test_what_has_no_end_is_ended(server: Server) -> None:
    """Each drips for longer than the server waits: 1 s for a body, 2 s for a request."""
    space = b"400\r\n" + b" " * 1024 + b"\r\n"
    cases = {
        "headers": (b"GET /v2 HTTP/1.1\r\n", b"X: y\r\n"),
        "empty lines": (b"", b"\r\n"),
        "small chunks": (CHUNKED, b"1\r\n \r\n"),
        "a chunk's extension": (CHUNKED + b"1;", b"a" * 1000),
        "trailers": (CHUNKED + b"0\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
        "a body that nobody reads": (CHUNKED.replace(b"POST", b"GET"), space),
        "a body for nothing": (CHUNKED.replace(b"models", b"nothing"), space),
        "the index": (b"POST /v2/repository/index HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", b" "),
    }
    seconds: dict[str, float] = {}

    def drip(name: str, start: bytes, piece: bytes) -> None:
        began = time.monotonic()
        with (
            contextlib.suppress(OSError),
            socket.create_connection((server.address.host, server.address.port)) as connection,
        ):
            connection.sendall(start)
            while time.monotonic() - began < 40.0:
                connection.sendall(piece)  # fails some time after the server has hung up
                time.sleep(0.05)
        seconds[name] = time.monotonic() - began

    before = server.rss_bytes()["front"]
    threads = [threading.Thread(target=drip, args=(name, *case)) for name, case in cases.items()]
    for thread in threads:
        thread.start()
    assert alive(server)
    for thread in threads:
        thread.join()
    assert set(seconds) == set(cases)
    assert max(seconds.values()) < 30.0, seconds
    assert server.rss_bytes()["front"] - before < 32 << 20
    assert alive(server)


def test_who_asks_and_never_reads_is_hung_up_on(server: Server) -> None:
    """However small each answer is: many of them fill what the kernel keeps, and then the connection stands still."""
    before = server.log().count("did not read its answers")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((server.address.host, server.address.port))
        deaf.settimeout(1.0)
        with contextlib.suppress(OSError):  # it takes no more, or has hung up
            while True:
                deaf.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        wait_until("its end", lambda: server.log().count("did not read its answers") > before, 60.0)
        received(deaf)
    assert alive(server)


def test_what_is_escaped_in_a_path_stays_in_its_part(server: Server) -> None:
    for path, name in (("%2541", "%41"), ("mo%2Fdel", "mo/del"), ("%6Dodel", "model"), ("%ff", "\ufffd")):
        head = f"GET /v2/models/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        reply = exchange(server.address, head.encode(), 20.0)
        if name == "model":
            assert reply.status == 200
        else:
            assert (reply.status, f"there is no model {name!r}" in json.loads(reply.body)["error"]) == (404, True)


@pytest.fixture
def named(tmp_path: Path) -> Callable[[str, str], Path]:
    """Copies of an artifact in one folder, each with the name that its manifest is to have."""

    def make(folder: str, name: str) -> Path:
        path = Path(shutil.copytree(SAMPLE, tmp_path / "all" / folder))
        data = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(data | {"name": name}))
        return path

    return make


@pytest.mark.parametrize("name", ["", "a\nINFO forged line", "\x1b[2J", "a\u202eb", "x" * 201])
def test_a_name_that_forges_log_lines_is_not_served(named: Callable[[str, str], Path], name: str) -> None:
    path = named("a", name)
    with pytest.raises(ArtifactError, match="is no name to serve; give one: NAME=") as caught:
        find([(None, path)])
    assert "\n" not in str(caught.value)
    assert find([("mine", path)]) == {"mine": path}


def test_one_broken_artifact_of_a_folder_does_not_hold_back_the_others(named: Callable[[str, str], Path]) -> None:
    good, bad = named("a", "good"), named("b", "bad")
    (bad / "manifest.json").write_text("{")
    refused: list[UserError] = []
    assert find([(None, good.parent)], refused.append) == {"good": good}
    assert "is damaged" in str(refused[0])
    with pytest.raises(ArtifactError, match="is damaged"):  # at the start, when somebody looks
        find([(None, good.parent)])


def test_workers_end_when_another_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        events = PoolEvents(lambda: None, lambda rows, ms: None, lambda died: None, lambda: None)
        pool = Pool(Start(str(SAMPLE), "", 2, 1), Shape(2, (1, 8, 8), ((3,),)), 2, 5.0, events)
        started: list[Worker] = []
        spawn = pool._spawn

        def first_only() -> Worker:
            if started:
                raise BlockingIOError("no more processes")
            started.append(spawn())
            return started[0]

        monkeypatch.setattr(pool, "_spawn", first_only)
        with pytest.raises(BlockingIOError):
            await pool.open()
        assert pool.pids == []
        assert started[0]._process.poll() is not None

    asyncio.run(scenario())
