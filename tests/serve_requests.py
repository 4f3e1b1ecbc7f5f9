"""Requests to a running server, one connection each, and what it answers."""

from __future__ import annotations

import json

import numpy as np

from bench.serve.client import infer_request
from bench.serve.malformed import Reply, exchange
from bench.serve.server import Server

ROWS = np.random.default_rng(3).standard_normal((3, 1, 8, 8)).astype(np.float32)


def ask(server: Server, head: str, body: bytes = b"") -> Reply:
    """One request of its own connection."""
    text = f"{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return exchange(server.address, text.encode() + body, 20.0)


def infer(server: Server, rows: np.ndarray = ROWS, model: str = "model") -> Reply:
    request = infer_request(model, "input", rows, as_json=True)
    return exchange(server.address, request.replace(b"Host: load", b"Host: x\r\nConnection: close"), 20.0)


def outputs(reply: Reply) -> np.ndarray:
    assert reply.status == 200, reply
    tensor = json.loads(reply.body)["outputs"][0]
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


def error_of(reply: Reply) -> str:
    return str(json.loads(reply.body)["error"])
