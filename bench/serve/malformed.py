"""Malformed requests, made at random from good ones and from what attackers send."""

from __future__ import annotations

import json
import random
import socket
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.serve.client import Address

_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 31, 1 << 63, 1 << 80, 1e308, -1e39, "", "x" * 300, "\ud800", [], {}, [[[]]], [None],
)  # fmt: skip
_SHAPES: tuple[Any, ...] = ([], [0, 1, 28, 28], [-1, 1, 28, 28], [1 << 40] * 4, [1, 1, 28], [1.5, 1, 28, 28], "1", None)
_TYPES = ("FP64", "INT8", "BYTES", "", "fp32", 7, None)
_HEADERS = (
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 1e3",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Content-Encoding: gzip",
    b"Content-Encoding: deflate",
    b"Content-Encoding: br",
    b"Inference-Header-Content-Length: -5",
    b"Inference-Header-Content-Length: 99999999",
    b"Inference-Header-Content-Length: x",
    b"Inference-Header-Content-Length: 0",
    b"Expect: 100-continue",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"X: " + b"a" * 20000,
    b": ",
    b"Host",
    b"Content-Type: \xff\xfe",
    b"Cookie: " + b"a=b; " * 2000,
)
_PATHS = (
    "",
    "/",
    "/v2/../../etc/passwd",
    "/%00",
    "/v2/models",
    "/v2/models/model/versions/9/infer",
    "/v2/models/x/infer",
    "/v2//",
    "/" + "a" * 9000,
    "/v2/models/%ff%fe/infer",
    "/v2/repository/models/x/load",
)


class Reply(msgspec.Struct, frozen=True):
    """The status, 0 where the server hung up without one; -1 where it did neither in time."""

    status: int
    body: bytes


def malformed(seed: int, model: str, name: str, row: tuple[int, ...]) -> bytes:
    """One request, nearly always malformed; the same for the same seed."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    kind = generator.choice(_KINDS)
    return kind(generator, model, name, row)


def exchange(address: Address, request: bytes, timeout_s: float) -> Reply:
    """Send bytes and read what comes until the server hangs up."""
    received = b""
    try:
        with socket.create_connection((address.host, address.port), timeout=timeout_s) as connection:
            connection.sendall(request)
            while part := connection.recv(65536):
                received += part
    except TimeoutError:
        return Reply(-1, received)
    except OSError:
        pass  # a reset after an early answer is an answer
    line = received.split(b"\r\n", 1)[0].split(b" ")
    status = int(line[1]) if len(line) > 1 and line[1].isdigit() else 0
    return Reply(status, received.partition(b"\r\n\r\n")[2])


def _request(model: str, body: bytes, *headers: bytes, method: bytes = b"POST") -> bytes:
    path = f"/v2/models/{model}/infer".encode()
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers]
    if not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _good(name: str, row: tuple[int, ...], binary: bool) -> tuple[dict[str, Any], bytes]:
    count = 1
    for length in row:
        count *= length
    tensor: dict[str, Any] = {"name": name, "shape": [1, *row], "datatype": "FP32"}
    if binary:
        tensor["parameters"] = {"binary_data_size": 4 * count}
        return {"inputs": [tensor]}, bytes(4 * count)
    tensor["data"] = [0.0] * count
    return {"inputs": [tensor]}, b""


def _with(document: dict[str, Any], raw: bytes, model: str, *headers: bytes) -> bytes:
    head = json.dumps(document).encode(errors="surrogatepass")
    if raw and not any(line.lower().startswith(b"inference") for line in headers):
        headers = (*headers, b"Inference-Header-Content-Length: %d" % len(head))
    return _request(model, head + raw, *headers)


def _wrong_field(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    document, raw = _good(name, row, generator.random() < 0.5)
    tensor = document["inputs"][0]
    key = generator.choice([*tensor, "data", "parameters"])
    choices: dict[str, tuple[Any, ...]] = {"shape": _SHAPES, "datatype": _TYPES}
    tensor[key] = generator.choice(choices.get(key, _VALUES))
    return _with(document, raw, model)


def _wrong_document(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    document, raw = _good(name, row, True)
    key = generator.choice(["inputs", "outputs", "id", "parameters", "extra"])
    document[key] = generator.choice([*_VALUES, [{"name": "no"}], document["inputs"] * 3])
    return _with(document, raw, model)


def _wrong_data(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    document, _ = _good(name, row, False)
    data = document["inputs"][0]["data"]
    data[generator.randrange(len(data))] = generator.choice(_VALUES)
    if generator.random() < 0.5:
        del data[generator.randrange(len(data)) :]
    text = json.dumps(document)
    if generator.random() < 0.3:
        text = text.replace("0.0", generator.choice(["NaN", "Infinity", "1e999", "-1e39", "0x1", "00"]), 1)
    return _request(model, text.encode(errors="surrogatepass"))


def _mutated_bytes(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    document, raw = _good(name, row, generator.random() < 0.5)
    request = bytearray(_with(document, raw, model))
    for _ in range(generator.randint(1, 8)):
        at = generator.randrange(min(len(request), generator.choice([40, 400, len(request)])))
        what = generator.random()
        if what < 0.5:
            request[at] = generator.randrange(256)
        elif what < 0.75:
            del request[at : at + generator.randint(1, 20)]
        else:
            request[at:at] = generator.randbytes(generator.randint(1, 20))
    return bytes(request)


def _nested(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    depth = generator.choice([100, 5000, 200000])
    open_, close = generator.choice([("[", "]"), ('{"a":', "}")])
    inner = open_ * depth + "1" + close * depth
    key = generator.choice(["inputs", "parameters", "x", "data"])
    if key == "data":
        head = json.dumps({"name": name, "shape": [1, *row], "datatype": "FP32"})[:-1]
        return _request(model, f'{{"inputs":[{head},"data":{inner}}}]}}'.encode())
    return _request(model, f'{{"{key}":{inner}}}'.encode())


def _lying_length(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    document, raw = _good(name, row, generator.random() < 0.5)
    head = json.dumps(document).encode()
    size = max(0, len(head) + len(raw) + generator.choice([-500, -1, 1, 500, 1 << 20, 1 << 33]))
    said = max(0, len(head) + generator.choice([-100, -1, 0, 1, 100, 1 << 30]))
    return _request(model, head + raw, b"Content-Length: %d" % size, b"Inference-Header-Content-Length: %d" % said)


def _hostile_header(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    document, raw = _good(name, row, True)
    return _with(document, raw, model, *generator.sample(_HEADERS, generator.randint(1, 3)))


def _odd_request(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    del model, name, row
    method = generator.choice([b"GET", b"PUT", b"DELETE", b"BREW", b"\x00", b"POST" * 100])
    path = generator.choice(_PATHS)
    version = generator.choice([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"", b"HTTP/1.1 x"])
    return method + b" " + path.encode() + b" " + version + b"\r\nConnection: close\r\n\r\n"


def _noise(generator: random.Random, model: str, name: str, row: tuple[int, ...]) -> bytes:
    del model, name, row
    return generator.randbytes(generator.choice([0, 1, 100, 10000]))


_KINDS: tuple[Callable[[random.Random, str, str, tuple[int, ...]], bytes], ...] = (
    _wrong_field,
    _wrong_document,
    _wrong_data,
    _mutated_bytes,
    _nested,
    _lying_length,
    _hostile_header,
    _odd_request,
    _noise,
)
