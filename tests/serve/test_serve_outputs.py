"""A served network with several outputs: metadata, all of them, some of them, and requests that run together."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from bench.serve.malformed import exchange
from bench.serve.scenarios import get_json
from bench.serve.server import Server
from runtime.artifact import open_artifact
from runtime.batches import run_outputs
from runtime.engine import load
from runtime.serve.model_signature import Output, Signature, signature_of
from runtime.serve.protocol import RequestError, read_request, write_response

pytest.importorskip("aiohttp", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

ARTIFACT = Path(__file__).parents[1] / "runtime/schemas/4/onnxruntime"
ROWS = np.random.default_rng(3).standard_normal((2, 1, 8, 8)).astype(np.float32)
SIGNATURE = Signature("m", "1", "st3_native", "x", (1,), (Output("a", (2,)), Output("b", (1, 3))), 4)


def document(**more: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0.5]}], **more}).encode()


@pytest.mark.parametrize(
    ("more", "outputs"),
    [
        ({}, ((0, False), (1, False))),
        ({"parameters": {"binary_data_output": True}}, ((0, True), (1, True))),
        ({"outputs": [{"name": "b"}]}, ((1, False),)),
        ({"outputs": [{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}]}, ((1, True), (0, False))),
    ],
)
def test_a_request_names_what_it_wants(more: dict[str, object], outputs: tuple[tuple[int, bool], ...]) -> None:
    request = read_request(SIGNATURE, document(**more), None)
    assert request.outputs == outputs
    made = [np.array([[1, 2]], np.float32), np.array([[[3, 4, 5]]], np.float32)]
    body, length = write_response(SIGNATURE, request, made)
    answer = json.loads(body[:length] if length else body)
    assert [tensor["name"] for tensor in answer["outputs"]] == [SIGNATURE.outputs[index].name for index, _ in outputs]
    raw = b"".join(made[index].tobytes() for index, binary in outputs if binary)
    assert body[length:] == raw if length else not raw
    for tensor, (index, binary) in zip(answer["outputs"], outputs, strict=True):
        assert tensor["shape"] == list(made[index].shape)
        assert ("data" in tensor) is not binary


def test_what_is_not_there_is_said_with_what_is() -> None:
    for names, message in ((["c"], r"the outputs \['a', 'b'\]; asked for 'c'"), (["a", "a"], "asked twice for 'a'")):
        with pytest.raises(RequestError, match=message) as error:
            read_request(SIGNATURE, document(outputs=[{"name": name} for name in names]), None)
        assert error.value.status == 400


def test_a_server_answers_with_all_or_some() -> None:
    expected = run_outputs(load(ARTIFACT), ROWS)
    assert [output.name for output in signature_of(open_artifact(ARTIFACT).manifest, "m", 1).outputs] == list(expected)
    with Server(f"net={ARTIFACT}") as server:
        metadata = get_json(server.address, "/v2/models/net")
        assert metadata["outputs"] == [
            {"name": "output", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "map", "datatype": "FP32", "shape": [-1, 4, 8, 8]},
        ]

        async def together() -> list[dict[str, object]]:
            """Single rows at once, which a batch of two joins."""
            jobs = [asyncio.to_thread(ask, server, {"inputs": [tensor(ROWS[i : i + 1])]}) for i in (0, 1)]
            return await asyncio.gather(*jobs)

        for row, answer in enumerate(asyncio.run(together())):
            for part in answer["outputs"]:
                given = np.array(part["data"], np.float32).reshape(part["shape"])
                np.testing.assert_allclose(given, expected[part["name"]][row : row + 1], rtol=1e-5, atol=1e-6)
        some = ask(server, {"inputs": [tensor(ROWS)], "outputs": [{"name": "map"}]})
        assert [part["name"] for part in some["outputs"]] == ["map"]
        np.testing.assert_allclose(some["outputs"][0]["data"], expected["map"].ravel(), rtol=1e-5, atol=1e-6)


def tensor(rows: np.ndarray) -> dict[str, object]:
    return {"name": "input", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}


def ask(server: Server, request: dict[str, object]) -> dict[str, object]:
    body = json.dumps(request).encode()
    head = f"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    reply = exchange(server.address, head.encode() + body, 30.0)
    assert reply.status == 200, reply
    answer: dict[str, object] = json.loads(reply.body)
    return answer
