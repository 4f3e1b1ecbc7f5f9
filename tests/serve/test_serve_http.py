"""A running server, over the wire: the real client, hostile connections, a full queue, mistakes of the command."""

from __future__ import annotations

import gzip
import os
import select
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from serve_requests import ROWS, ask, error_of, infer

from bench.serve.client import infer_request
from bench.serve.fuzz import fuzz
from bench.serve.malformed import Reply, exchange
from bench.serve.scenarios import figures, get_json
from bench.serve.server import Server, wait_until
from runtime.engine import load
from runtime.serve.models import find
from st3.cli import main

pytest.importorskip("aiohttp", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")


def test_the_real_client_gets_what_the_engine_answers(server: Server, served: Path) -> None:
    client_module = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    expected = load(served).run({"input": ROWS})["output"]
    client = client_module.InferenceServerClient(f"{server.address.host}:{server.address.port}", concurrency=4)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("model")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_repository"]
    metadata = client.get_model_metadata("model")
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert metadata["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 3]}]
    for binary_in in (True, False):
        for binary_out in (True, False):
            given = client_module.InferInput("input", list(ROWS.shape), "FP32")
            given.set_data_from_numpy(ROWS, binary_data=binary_in)
            wanted = client_module.InferRequestedOutput("output", binary_data=binary_out)
            answer = client.infer("model", [given], outputs=[wanted], request_id="r-1")
            assert answer.get_response()["id"] == "r-1"
            np.testing.assert_allclose(answer.as_numpy("output"), expected, rtol=1e-5, atol=1e-6)
    for algorithm in ("gzip", "deflate"):
        answer = client.infer("model", [given], request_compression_algorithm=algorithm)
        np.testing.assert_allclose(answer.as_numpy("output"), expected, rtol=1e-5, atol=1e-6)
    pending = [client.async_infer("model", [given]) for _ in range(20)]
    assert all(request.get_result().as_numpy("output").shape == (3, 3) for request in pending)
    wrong = client_module.InferInput("input", [1, 1, 8, 7], "FP32")
    wrong.set_data_from_numpy(ROWS[:1, :, :, :7].copy())
    with pytest.raises(Exception, match=r"\[n, 1, 8, 8\]"):
        client.infer("model", [wrong])
    with pytest.raises(Exception, match="there is no model 'nobody'"):
        client.infer("nobody", [given])
    client.close()


def test_paths_methods_and_versions(server: Server) -> None:
    assert ask(server, "GET /v2/health/live HTTP/1.1") == Reply(200, b"")
    assert ask(server, "GET /v2/health/ready HTTP/1.1").status == 200
    version = get_json(server.address, "/v2/models/model")["versions"][0]
    assert ask(server, f"GET /v2/models/model/versions/{version}/ready HTTP/1.1").status == 200
    assert ask(server, "GET /v2/models/model/versions/999/ready HTTP/1.1").status == 400
    for head, status, words in (
        ("GET /v2/models/model/infer HTTP/1.1", 405, "takes POST"),
        ("POST /v2/models/model HTTP/1.1", 405, "takes GET"),
        ("GET /v2/models/nobody HTTP/1.1", 404, "there are: model"),
        ("POST /v2/models/model/versions/999/infer HTTP/1.1", 404, "has no version '999'"),
        ("GET /elsewhere HTTP/1.1", 404, "begins at /v2"),
        ("GET /v2/models/model/nothing HTTP/1.1", 404, "nothing at"),
    ):
        reply = ask(server, head)
        assert reply.status == status, reply
        assert words in error_of(reply)


def test_a_load_cannot_bring_its_own_model(server: Server) -> None:
    reply = ask(server, "POST /v2/repository/models/model/load HTTP/1.1", b'{"parameters":{"config":"{}"}}')
    assert reply.status == 400
    assert "takes no parameters" in error_of(reply)
    assert ask(server, "POST /v2/repository/models/nobody/load HTTP/1.1").status == 404


def test_bodies_that_are_too_long_are_refused_before_they_are_read(server: Server) -> None:
    head = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\n"
    reply = exchange(server.address, head + b"Content-Length: 9999999999\r\n\r\nabc", 20.0)
    assert reply.status == 413
    assert "this model takes up to" in error_of(reply)
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    reply = exchange(server.address, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3, 20.0)
    assert reply.status in (413, 0)  # a reset may overtake the answer while we still send


def test_a_compressed_bomb_is_refused_and_takes_no_memory(server: Server) -> None:
    bomb = gzip.compress(bytes(256 << 20), 9)
    before = server.rss_bytes()["front"]
    head = (
        f"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n"
    )
    short = exchange(server.address, head.encode() + b"\r\n" + bomb, 20.0)
    assert short.status in (413, 0)
    small = gzip.compress(bytes(16 << 20), 9)
    reply = exchange(server.address, head.replace(str(len(bomb)), str(len(small))).encode() + b"\r\n" + small, 20.0)
    assert reply.status == 413
    assert server.rss_bytes()["front"] - before < 64 << 20
    assert infer(server).status == 200


def test_slow_clients_are_hung_up_on_and_hold_up_nobody(server: Server) -> None:
    began = time.monotonic()
    starts = (b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{", b"GET /v2 HT", b"")
    slow = [socket.create_connection((server.address.host, server.address.port)) for _ in range(60)]
    for number, connection in enumerate(slow):
        connection.sendall(starts[number % 3])
    assert infer(server).status == 200
    assert time.monotonic() - began < 1.0 or os.getloadavg()[0] > 3
    for number, connection in enumerate(slow):
        connection.settimeout(20.0)
        received = b""
        while part := connection.recv(4096):
            received += part
        assert received.startswith(b"HTTP/1.1 408") if number % 3 == 0 else not received
        connection.close()


def test_connections_over_the_limit_are_told_so_and_the_rest_go_on(served: Path) -> None:
    with Server(f"model={served}", "--max-connections", "50") as server:
        address = (server.address.host, server.address.port)
        held = [socket.create_connection(address) for _ in range(300)]
        told: set[socket.socket] = set()
        deadline = time.monotonic() + 20.0
        while len(told) < 250 and time.monotonic() < deadline:
            ready, _, _ = select.select([one for one in held if one not in told], [], [], 1.0)
            told |= {one for one in ready if b"503 Service Unavailable" in one.recv(4096)}
        assert len(told) == 250
        assert held[0] not in told
        held[0].settimeout(20.0)
        held[0].sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held[0].recv(4096).startswith(b"HTTP/1.1 200")
        for connection in held:
            connection.close()
        wait_until("room", lambda: infer(server).status == 200)
        assert figures(server.address)["st3_connections_refused_total"] >= 250


def test_malformed_requests_by_the_hundred(server: Server, served: Path) -> None:
    outcome = fuzz(server, "model", served, infer_request("model", "input", ROWS), 300)
    assert not outcome.failures
    assert outcome.statuses[400] > 150


@pytest.mark.exhaustive
def test_malformed_requests_by_the_ten_thousand(server: Server, served: Path) -> None:
    outcome = fuzz(server, "model", served, infer_request("model", "input", ROWS), 10_000, seed=1_000_000)
    assert not outcome.failures


def test_metrics_count_what_happened(served: Path) -> None:
    with Server(f"model={served}") as server:
        infer(server)
        infer(server, ROWS[:, :, 1:])
        found = figures(server.address)
    assert found['st3_requests_total{model="model",status="200"}'] == 1
    assert found['st3_requests_total{model="model",status="400"}'] == 1
    assert found['st3_request_failures_total{model="model"}'] == 1
    assert found['st3_batch_rows_sum{model="model"}'] == 3
    assert found['st3_request_seconds_count{model="model"}'] == 2
    assert found['st3_run_seconds_count{model="model"}'] == 1
    assert found['st3_queue_depth{model="model"}'] == 0
    assert found['st3_workers_ready{model="model"}'] == 1


def test_a_full_queue_answers_503_with_retry_after(served: Path) -> None:
    with Server(f"model={served}", "--queue-rows", "4", "--max-delay-us", "500000") as server:
        one = infer_request("model", "input", ROWS[:1])
        address = (server.address.host, server.address.port)
        held = [socket.create_connection(address) for _ in range(3)]
        for connection in held:
            connection.sendall(one)
        time.sleep(0.1)
        with socket.create_connection(address, timeout=20) as late:
            late.sendall(infer_request("model", "input", ROWS))
            text = late.recv(4096)
        assert text.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 1" in text
        assert all(connection.recv(4096).startswith(b"HTTP/1.1 200") for connection in held)
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere"], "there is no artifact at or below /nowhere"),
        (["a/b=/nowhere"], "neither a folder nor NAME=FOLDER"),
        (["--require-digest", "sha256:" + "0" * 64, "{served}"], "digest"),
        (["x={served}", "x={served}"], "both named 'x'"),
        (["--host", "203.0.113.1", "--port", "1", "{served}"], "cannot listen on 203.0.113.1 port 1"),
    ],
)
def test_mistakes_are_one_line(served: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ST3_REQUIRE_DIGEST", "restored afterwards")
    monkeypatch.delenv("ST3_REQUIRE_DIGEST")
    result = CliRunner().invoke(main, ["serve", *(text.format(served=served) for text in arguments)])
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_an_artifacts_own_name_is_one_part_of_a_path(compiled: Path) -> None:
    assert list(find([(None, compiled), ("x", compiled)])) == ["dense-native-b1", "x"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, served: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["serve", str(served)])
    assert result.exit_code == 2
    assert (
        "st3 serve needs aiohttp and prometheus_client, which the extra has: pip install 'st3[serve]'" in result.output
    )
