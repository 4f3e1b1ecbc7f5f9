"""A light load generator: many keep-alive connections in one process, bodies encoded once, answers hardly looked at."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from typing import TYPE_CHECKING, final

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Address(msgspec.Struct, frozen=True):
    """Where the server listens."""

    host: str
    port: int


@final
class Tally:
    """What came of the requests of a run.

    Attributes:
        statuses: answers by HTTP status.
        lost: requests that were sent and never answered.
        latencies_ms: of every answer with status 200.
    """

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.lost = 0
        self.latencies_ms = array("d")

    @property
    def errors(self) -> int:
        """Answers other than 200."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies; 0 where there are none."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else 0.0


def infer_request(model: str, name: str, rows: NDArray[np.float32], as_json: bool = False) -> bytes:
    """An infer request, headers and body, as it goes over the wire; the tensor binary or as JSON."""
    raw = rows.tobytes()
    tensor = {"name": name, "shape": list(rows.shape), "datatype": "FP32"}
    if as_json:
        head, raw = msgspec.json.encode({"inputs": [tensor | {"data": rows.ravel().tolist()}]}), b""
    else:
        document = {
            "inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
        head = msgspec.json.encode(document)
    length = b"" if as_json else b"Inference-Header-Content-Length: %d\r\n" % len(head)
    path = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: load\r\n".encode()
    return path + length + b"Content-Length: %d\r\n\r\n" % (len(head) + len(raw)) + head + raw


@final
class Client(asyncio.Protocol):
    """One connection that sends its next request when the last is answered, until ``stop``.

    Where the server says ``Connection: close`` another connection is made: that is how it asks to be left in peace.
    """

    def __init__(self, load: Load, bodies: Sequence[bytes], pause_s: float) -> None:
        self._load, self._bodies, self._pause_s = load, bodies, pause_s
        self._next = 0
        self._sent = 0.0
        self._waiting = False
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is whole, and send the next request."""
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer = b""
        self._answered(int(head[9:12]), b"connection: close" in head)

    def connection_lost(self, exc: Exception | None) -> None:
        """A request that waited is lost; another connection is made unless the run is over."""
        del exc
        if self._waiting:
            self._load.tally.lost += 1
        self._waiting = False
        self._load.gone(self)

    def close(self) -> None:
        """Hang up if nothing is waited for."""
        if self._transport is not None and not self._waiting:
            self._transport.close()

    def _send(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._load.stopping:
            self._transport.close()
            return
        self._waiting = True
        self._sent = time.perf_counter()
        self._transport.write(self._bodies[self._next])
        self._next = (self._next + 1) % len(self._bodies)

    def _answered(self, status: int, last: bool) -> None:
        self._waiting = False
        tally = self._load.tally
        tally.statuses[status] += 1
        if status == 200:
            tally.latencies_ms.append((time.perf_counter() - self._sent) * 1e3)
        assert self._transport is not None
        if last:
            self._transport.close()
        elif self._pause_s:
            asyncio.get_running_loop().call_later(self._pause_s, self._send)
        else:
            self._send()


@final
class Load:
    """A number of clients on one server. A client whose connection ends makes another; ``leave`` makes none."""

    def __init__(self, address: Address, bodies: Sequence[bytes], clients: int, pause_s: float = 0.0) -> None:
        self.tally = Tally()
        self.stopping = False
        self.leave = False
        self._address, self._bodies, self._pause_s = address, bodies, pause_s
        self._clients: set[Client] = set()
        self._wanted = clients
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect all clients."""
        for _ in range(self._wanted):
            await self._connect()

    async def run(self, seconds: float) -> Tally:
        """Connect, go on for a time, wait for what is under way."""
        await self.open()
        await asyncio.sleep(seconds)
        return await self.stop()

    async def stop(self) -> Tally:
        """Send no more, wait for the answers under way, up to 30 s."""
        self.stopping = True
        for client in tuple(self._clients):
            client.close()
        deadline = time.monotonic() + 30.0
        while self._clients and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return self.tally

    def gone(self, client: Client) -> None:
        """A connection ended."""
        self._clients.discard(client)
        if not (self.stopping or self.leave):
            task = asyncio.ensure_future(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        client = Client(self, self._bodies, self._pause_s)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: client, self._address.host, self._address.port)
        self._clients.add(client)
