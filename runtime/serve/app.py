"""The HTTP side: which path does what, how a body is read, and how an answer or an error goes out."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from typing import TYPE_CHECKING, Any, final
from urllib.parse import unquote

import msgspec
from aiohttp import web

from runtime.serve.metrics import CONTENT_TYPE
from runtime.serve.model_signature import model_metadata
from runtime.serve.protocol import HEADER_LENGTH, RequestError, read_request, write_response

if TYPE_CHECKING:
    from runtime.serve.metrics import Metrics
    from runtime.serve.models import Model, Models
    from runtime.serve.settings import Settings

log = logging.getLogger("st3.serve")
_SMALL_BODY = 1 << 20  # of what is no infer request


@final
class App:
    """Answers requests. ``stopping`` turns readiness off and closes each connection after its answer."""

    def __init__(self, models: Models, settings: Settings, metrics: Metrics) -> None:
        self.stopping = False
        self._models = models
        self._settings = settings
        self._metrics = metrics
        self._budget = settings.body_budget_mib << 20
        self._loop = asyncio.get_running_loop()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; whatever it is, the answer says why it was refused."""
        try:
            response = await self._route(request)
        except RequestError as error:
            response = _json({"error": error.reason}, error.status)
            if error.status == 503:
                response.headers["Retry-After"] = "1"
            if error.status in (408, 413):
                response.force_close()  # the rest of the body is not waited for
        except web.RequestPayloadError as error:
            response = _json({"error": f"the body cannot be read: {_first_line(error)}"}, 400)
            response.force_close()
        except Exception:
            log.exception("a request could not be answered")
            response = _json({"error": "the server made a mistake; its log says which"}, 500)
        if self.stopping:
            response.force_close()
        return response

    async def _route(self, request: web.BaseRequest) -> web.Response:
        # what is escaped stays within its part: %2F parts nothing, and %2541 is %41
        parts = [unquote(part) for part in request.rel_url.raw_path.strip("/").split("/")]
        if parts[0] == "metrics" and len(parts) == 1:
            _only(request, "GET")
            return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})
        if parts[0] != "v2":
            raise RequestError(404, f"there is nothing at {request.path[:200]!r}; the protocol begins at /v2")
        match parts[1:]:
            case []:
                _only(request, "GET")
                return _json(_SERVER)
            case ["health", "live"]:
                _only(request, "GET")
                return web.Response()
            case ["health", "ready"]:
                _only(request, "GET")
                return web.Response(status=200 if self._models.ready and not self.stopping else 400)
            case ["repository", *rest]:
                return await self._repository(request, rest)
            case ["models", name, "versions", version, *rest]:
                return await self._model(request, self._models[name], version, rest)
            case ["models", name, *rest]:
                return await self._model(request, self._models[name], None, rest)
        raise RequestError(404, f"there is nothing at {request.path[:200]!r}")

    async def _model(
        self, request: web.BaseRequest, model: Model, version: str | None, rest: list[str]
    ) -> web.Response:
        if rest == ["infer"]:
            _only(request, "POST")
            return await self._infer(request, model, version)
        _only(request, "GET")
        signature = model.signature
        if rest == ["ready"]:
            return web.Response(status=200 if model.ready and _is_version(model, version) else 400)
        if rest:
            raise RequestError(404, f"there is nothing at {request.path[:200]!r}")
        if signature is None or not _is_version(model, version):
            raise RequestError(404, _not_served(model, version))
        return _json(model_metadata(signature))

    async def _infer(self, request: web.BaseRequest, model: Model, version: str | None) -> web.Response:
        began = self._loop.time()
        status = 500
        try:
            response = await self._infer_now(request, model, version)
            status = response.status
            return response
        except RequestError as error:
            status = error.status
            raise
        except web.RequestPayloadError:
            status = 400
            raise
        except asyncio.CancelledError:
            status = 499  # the client went away, as nginx counts it
            raise
        finally:
            model.metrics.answered(status, self._loop.time() - began)

    async def _infer_now(self, request: web.BaseRequest, model: Model, version: str | None) -> web.Response:
        signature = model.signature
        if signature is None or not _is_version(model, version):
            raise RequestError(404, _not_served(model, version))
        limit = signature.body_limit_bytes
        reserved = self._reserve(request.content_length, limit)
        try:
            body = await self._body(request, limit)
            infer = read_request(signature, body, request.headers.get(HEADER_LENGTH))
            del body
            outputs = await model.infer(infer.rows, lambda: request.transport is None or request.transport.is_closing())
            answer, json_length = write_response(signature, infer, outputs)
        finally:
            self._budget += reserved
        if json_length:
            return web.Response(
                body=answer, headers={"Content-Type": "application/octet-stream", HEADER_LENGTH: str(json_length)}
            )
        return web.Response(body=answer, headers={"Content-Type": "application/json"})

    async def _repository(self, request: web.BaseRequest, rest: list[str]) -> web.Response:
        _only(request, "POST")
        if rest == ["index"]:
            await self._body(request, _SMALL_BODY)
            return _json([_index_entry(model) for model in self._models.all()])
        match rest:
            case ["models", name, ("load" | "unload") as verb]:
                if not self._settings.control:
                    raise RequestError(403, f"{verb} over HTTP is off; start the server with --control, or send SIGHUP")
                model = self._models[name]
                _refuse_parameters(await self._body(request, _SMALL_BODY), verb)
                await (model.load() if verb == "load" else model.unload())
                return web.Response()
        raise RequestError(404, f"there is nothing at {request.path[:200]!r}")

    def _reserve(self, length: int | None, limit: int) -> int:
        """Take a body's bytes from what all bodies together may hold in memory."""
        if length is not None and length > limit:
            raise RequestError(413, f"the body has {length} bytes; this model takes up to {limit}")
        wanted = limit if length is None else length
        if wanted > self._budget:
            raise RequestError(503, "too many bytes of request bodies are in memory; try again later")
        self._budget -= wanted
        return wanted

    async def _body(self, request: web.BaseRequest, limit: int) -> bytes:
        """The body, decompressed."""
        content = request.content
        if content.is_eof():  # it came with the headers: no wait, so no timer
            body: bytes = content.read_nowait()
            if len(body) > limit:
                raise RequestError(413, f"the body has more than {limit} bytes")
            return body
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            return await asyncio.wait_for(_read(request, limit), self._settings.read_timeout_s)
        except asyncio.TimeoutError:
            raise RequestError(
                408,
                f"the body did not arrive within {self._settings.read_timeout_s:g} s (Content-Length "
                f"{request.content_length})",
            ) from None


_SERVER = {
    "name": "st3",
    "version": "unknown",
    "extensions": ["binary_tensor_data", "model_repository"],
}
for _package in ("st3-runtime", "st3"):
    try:
        _SERVER["version"] = importlib.metadata.version(_package)
    except importlib.metadata.PackageNotFoundError:
        continue
    break


async def _read(request: web.BaseRequest, limit: int) -> bytes:
    parts = []
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > limit:
            raise RequestError(413, f"the body has more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def _json(document: Any, status: int = 200) -> web.Response:
    body = msgspec.json.encode(document)
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def _only(request: web.BaseRequest, method: str) -> None:
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise RequestError(405, f"{request.path[:200]} takes {method}, not {request.method[:20]}")


def _is_version(model: Model, version: str | None) -> bool:
    return model.signature is not None and version in (None, "", model.signature.version)


def _not_served(model: Model, version: str | None) -> str:
    if model.signature is None:
        return f"model {model.name!r} is not loaded: {model.reason}"
    return f"model {model.name!r} has no version {str(version)[:20]!r}; it has {model.signature.version}"


def _index_entry(model: Model) -> dict[str, str]:
    if model.signature is None:
        return {"name": model.name, "state": "UNAVAILABLE", "reason": model.reason}
    return {"name": model.name, "version": model.signature.version, "state": "READY" if model.ready else "UNAVAILABLE"}


def _refuse_parameters(body: bytes, verb: str) -> None:
    """A load may not bring a model along: what runs here is what the person who started the server named."""
    try:
        document = msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the body of {verb} is no JSON object: {_first_line(error)}") from None
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict) or set(parameters) - {"unload_dependents"}:
        raise RequestError(
            400, f"{verb} takes no parameters: a model is loaded from the folder that the server was given"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:300]
