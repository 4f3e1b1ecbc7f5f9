"""A worker process: loads one artifact, and runs the batches that the front lays into the shared memory."""

from __future__ import annotations

import mmap
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from runtime.batches import run_all
from runtime.engine import load
from runtime.errors import ArtifactError, UserError
from runtime.serve.wire import PACKET_BYTES, Done, Failed, Ready, Shape, Start, views

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from runtime.engine import Engine
    from runtime.serve.wire import Answer

_WARM_UPS = 3


def cheapest_cut(rows: int, run_ms: Mapping[int, float]) -> list[int]:
    """The batch sizes that ``rows`` run in soonest, the largest first; the last one may not be full.

    Fifteen rows run as fifteen of one, or filled up to one batch of sixteen, whichever measured less.

    Args:
        rows: how many there are, from 1.
        run_ms: the compiled batch sizes and what one batch of each takes.
    """
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for count in range(1, rows + 1):
        choices = [(best[max(0, count - size)][0] + ms, size) for size, ms in run_ms.items()]
        cost, size = min(choices)
        best.append((cost, [size, *best[max(0, count - size)][1]]))
    return sorted(best[rows][1], reverse=True)


def run_rows(engine: Engine, cut: list[int], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of the rows, run in batches of the sizes of ``cut``; ``(n, ...)``."""
    parts = []
    start = 0
    for size in cut:
        batch = rows[start : start + size]
        if len(batch) < size:
            batch = np.concatenate([batch, np.zeros((size - len(batch), *rows.shape[1:]), np.float32)])
        parts.append(run_all(engine, batch)[: len(rows) - start])
        start += size
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def serve(channel: socket.socket, memory_fd: int) -> None:
    """Answer the front until it closes the socket."""
    start = msgspec.json.decode(channel.recv(PACKET_BYTES), type=Start)
    try:
        engine, run_ms = _load(start)
    except (UserError, OSError, MemoryError) as error:
        _send(channel, Failed(_line(error)))
        return
    manifest = engine.artifact.manifest
    shape = Shape(start.max_batch, manifest.input.shape[1:], manifest.output.shape[1:])
    inputs, outputs = views(mmap.mmap(memory_fd, shape.size_bytes), shape)
    cuts = [cheapest_cut(count, run_ms) for count in range(1, shape.max_batch + 1)]
    _send(channel, Ready(run_ms))
    while packet := channel.recv(PACKET_BYTES):
        rows = int(packet)
        began = time.perf_counter()
        try:
            outputs[:rows] = run_rows(engine, cuts[rows - 1], inputs[:rows])
        except Exception as error:  # whatever an engine raises is this batch's answer, not this process's end
            _send(channel, Failed(_line(error)))
        else:
            _send(channel, Done((time.perf_counter() - began) * 1e3))


def _load(start: Start) -> tuple[Engine, dict[int, float]]:
    """The engine, warm, and what each batch size takes.

    Raises:
        UserError: it cannot be loaded, or the folder holds another artifact than the front saw.
    """
    engine = load(start.path, start.threads)
    artifact = engine.artifact
    if artifact.digest != start.digest:
        raise ArtifactError(
            f"{start.path} was replaced while it was served (digest {artifact.digest[:12]}, not {start.digest[:12]}); "
            f"reload it (SIGHUP)"
        )
    manifest = artifact.manifest
    run_ms = {}
    for size in manifest.target.sizes:
        batch = np.zeros((size, *manifest.input.shape[1:]), np.float32)
        times = []
        for _ in range(_WARM_UPS):
            began = time.perf_counter()
            run_all(engine, batch)
            times.append((time.perf_counter() - began) * 1e3)
        run_ms[size] = min(times)
    return engine, run_ms


def _send(channel: socket.socket, answer: Answer) -> None:
    channel.send(msgspec.json.encode(answer))


def _line(error: BaseException) -> str:
    return " ".join(f"{error if isinstance(error, UserError) else repr(error)}".split())[:2000]


def main() -> None:
    """``python -m runtime.serve.worker SOCKET MEMORY``: two inherited file descriptors."""
    # a terminal's Ctrl-C and a service manager's SIGTERM reach the whole group: the front alone decides when to stop
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    try:
        serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    except (BrokenPipeError, ConnectionResetError):
        return  # the front is gone


if __name__ == "__main__":
    main()
