"""A worker process: loads one artifact, and runs the batches that the front lays into the shared memory."""

from __future__ import annotations

import mmap
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from runtime.cuts import cheapest_cut, run_rows, warm
from runtime.engine import load
from runtime.errors import ArtifactError, UserError
from runtime.serve.wire import PACKET_BYTES, Done, Failed, Ready, Shape, Start, views

if TYPE_CHECKING:
    from runtime.engine import Engine
    from runtime.serve.wire import Answer


def serve(channel: socket.socket, memory_fd: int) -> None:
    """Answer the front until it closes the socket."""
    start = msgspec.json.decode(channel.recv(PACKET_BYTES), type=Start)
    try:
        engine, run_ms = _load(start)
    except (UserError, OSError, MemoryError) as error:
        _send(channel, Failed(_line(error)))
        return
    manifest = engine.artifact.manifest
    shape = Shape(start.max_batch, manifest.input.shape[1:], tuple(spec.shape[1:] for spec in manifest.outputs))
    inputs, outputs = views(mmap.mmap(memory_fd, shape.size_bytes), shape)
    cuts = [cheapest_cut(count, run_ms) for count in range(1, shape.max_batch + 1)]
    _send(channel, Ready(run_ms))
    while packet := channel.recv(PACKET_BYTES):
        rows = int(packet)
        began = time.perf_counter()
        try:
            for place, output in zip(outputs, run_rows(engine, cuts[rows - 1], inputs[:rows]), strict=True):
                place[:rows] = output
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
    return engine, warm(engine)


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
