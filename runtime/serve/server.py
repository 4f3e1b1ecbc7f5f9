"""The front's life: load, listen, reload on SIGHUP, and on SIGTERM finish what was taken and leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from typing import TYPE_CHECKING, final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from runtime.errors import UserError
from runtime.serve.app import App
from runtime.serve.metrics import Metrics
from runtime.serve.models import Models

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runtime.serve.settings import Settings

log = logging.getLogger("st3.serve")
_BACKLOG = 2048
_OWN_FILES = 64  # descriptors that are not connections
_REASON = b'{"error":"too many open connections; try again later"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_REASON), _REASON)
)


async def serve(
    paths: Sequence[tuple[str | None, Path]], settings: Settings, started: Callable[[str, int, Models], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        paths: artifacts or folders of them, each with the name that it is served by, if not its own.
        settings: see there.
        started: called once with the host, the port and the models when requests are taken.

    Raises:
        UserError: an artifact cannot be loaded, or the port cannot be listened on.
    """
    metrics = Metrics()
    models = Models(paths, settings, metrics)
    stop = _on_signals(models)
    await models.open()
    try:
        app = App(models, settings, metrics)
        http = web.Server(
            app,
            access_log=None,
            logger=_quiet_logger(),
            keepalive_timeout=settings.idle_timeout_s,
            lingering_time=min(2.0, settings.read_timeout_s),
        )
        front = _Front(http, _most_connections(settings.max_connections), settings.read_timeout_s, metrics)
        try:
            listener = await asyncio.get_running_loop().create_server(
                front.connect, settings.host, settings.port, backlog=_BACKLOG
            )
        except OSError as error:
            raise UserError(
                f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; give another --port"
            ) from error
        host, port = listener.sockets[0].getsockname()[:2]
        started(host, port, models)
        await stop.wait()
        log.info("stopping: no longer ready; finishing what was taken")
        app.stopping = True
        await asyncio.sleep(settings.drain_s)
        listener.close()
        await http.shutdown(settings.stop_timeout_s)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(models.unload(), settings.stop_timeout_s)
    finally:
        models.close()


def _on_signals(models: Models) -> asyncio.Event:
    """SIGTERM and SIGINT set the event; SIGHUP reloads, one at a time."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    one_at_a_time = asyncio.Lock()
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        async with one_at_a_time:
            await models.reload()

    def on_hangup() -> None:
        task = loop.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    return stop


def _quiet_logger() -> logging.Logger:
    """aiohttp's, without a traceback for each thing that is no HTTP: anybody could fill a disk with them."""
    logger = logging.getLogger("st3.serve.http")
    theirs = (HttpProcessingError, web.RequestPayloadError)
    logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], theirs)))
    return logger


@final
class _Front:
    """Makes a protocol for each connection: HTTP, or one that says that there are too many.

    It counts by itself: many connections are accepted before aiohttp hears of the first.
    """

    def __init__(self, http: web.Server, most: int, read_timeout_s: float, metrics: Metrics) -> None:
        self.open = 0
        self.read_timeout_s = read_timeout_s
        self._http, self._most, self._metrics = http, most, metrics
        metrics.count_connections(lambda: self.open)

    def connect(self) -> asyncio.Protocol:
        if self.open < self._most:
            self.open += 1
            return _Counted(self._http(), self)
        self._metrics.refused()
        return _TooMany()


@final
class _Counted(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, counts the end, and hangs up on who does not read.

    aiohttp waits as long as the kernel takes no more of an answer, and so would a connection that is to be closed.
    """

    def __init__(self, inner: asyncio.Protocol, front: _Front) -> None:
        self._front = front
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=0)  # writing pauses as soon as the kernel does not take all
        self._transport = transport
        self._inner.connection_made(transport)

    def pause_writing(self) -> None:
        self._unread = asyncio.get_running_loop().call_later(self._front.read_timeout_s, self._hang_up)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._stop_timer()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._front.open -= 1
        self._inner.connection_lost(exc)

    def _hang_up(self) -> None:
        assert self._transport is not None
        log.warning("a client did not read its answers; its connection is closed")
        self._transport.abort()

    def _stop_timer(self) -> None:
        if self._unread is not None:
            self._unread.cancel()


@final
class _TooMany(asyncio.Protocol):
    """Says so and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_FULL)
        transport.close()


def _most_connections(wanted: int) -> int:
    """As many as are wanted and as this process may have files open, which is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OWN_FILES))
