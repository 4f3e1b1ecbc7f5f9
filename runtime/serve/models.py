"""The models that are served: loading, replacing and unloading them while requests run."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, final

import msgspec

from runtime.artifact import find_artifacts, open_artifact
from runtime.errors import ArtifactError, UserError
from runtime.names import served_name
from runtime.serve.batching import Batcher
from runtime.serve.model_signature import DATATYPES, Signature, signature_of
from runtime.serve.pool import Pool, PoolEvents
from runtime.serve.protocol import RequestError
from runtime.serve.wire import Shape, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from runtime.artifact import Artifact
    from runtime.serve.metrics import Metrics, ModelMetrics
    from runtime.serve.settings import Settings

log = logging.getLogger("st3.serve")
_QUEUE_BATCHES = 8
_QUEUE_LEAST_ROWS = 256
_LONGEST_NAME = 200


@final
class Model:
    """A name, the folder that it comes from, and while it is loaded its queue and its workers."""

    def __init__(self, name: str, path: Path, settings: Settings, metrics: ModelMetrics) -> None:
        self.name = name
        self.path = path
        self.metrics = metrics
        self.signature: Signature | None = None
        self.digest = ""
        self.reason = "not loaded yet"
        self._settings = settings
        self._batcher: Batcher | None = None
        self._pool: Pool | None = None
        self._version = 0
        self._changing = asyncio.Lock()
        metrics.watch(self)

    @property
    def ready(self) -> bool:
        """Whether a worker can run a request."""
        return self._pool is not None and self._pool.ready > 0

    @property
    def queue_depth(self) -> int:
        """Requests that wait for a worker."""
        return 0 if self._batcher is None else self._batcher.depth

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [] if self._pool is None else self._pool.pids

    @property
    def workers_ready(self) -> int:
        """How many workers are warm."""
        return 0 if self._pool is None else self._pool.ready

    async def infer(self, rows: NDArray[np.float32], gone: Callable[[], bool]) -> Sequence[NDArray[np.float32]]:
        """See ``Batcher.submit``."""
        if self._batcher is None:
            raise RequestError(404, f"model {self.name!r} is not loaded: {self.reason}")
        return await self._batcher.submit(rows, gone)

    async def load(self) -> None:
        """Load the artifact that lies in the folder now; what is served goes on until the new workers are warm.

        Raises:
            RequestError: it cannot be loaded; what was served before still is.
        """
        async with self._changing:
            try:
                artifact = await asyncio.to_thread(_open, self.path)
                signature = self._signature(artifact)
                batcher = self._batcher_for(signature)
                pool = self._new_pool(artifact, signature, batcher)
                await pool.open()
            except (UserError, RequestError, OSError) as error:
                if self._pool is None:
                    self.reason = str(error)
                raise RequestError(400, f"model {self.name!r} cannot be loaded: {error}") from error
            await self._swap(batcher, pool, signature, artifact.digest)
        log.info("%s version %s is ready: %s, digest %s", self.name, self._version, self.path, artifact.digest[:12])

    async def unload(self, reason: str = "it was unloaded") -> None:
        """Take no more requests, finish those that were taken, end the workers."""
        async with self._changing:
            batcher, pool = self._batcher, self._pool
            self._batcher, self._pool, self.signature, self.digest, self.reason = None, None, None, "", reason
            if batcher is not None and pool is not None:
                await batcher.emptied()
                await pool.drain()
                batcher.close(reason)

    def close(self) -> None:
        """End the workers, whatever they do."""
        if self._pool is not None:
            self._pool.close()
        if self._batcher is not None:
            self._batcher.close("the server stops")

    async def _swap(self, batcher: Batcher, pool: Pool, signature: Signature, digest: str) -> None:
        old, old_batcher = self._pool, self._batcher
        self._version += 1
        batcher.pool = pool
        self._batcher, self._pool, self.signature, self.digest = batcher, pool, signature, digest
        batcher.wake()
        if old is None or old_batcher is None:
            return
        if old_batcher is not batcher:
            await old_batcher.emptied()
        await old.drain()
        if old_batcher is not batcher:
            old_batcher.close("the model was replaced")

    def _signature(self, artifact: Artifact) -> Signature:
        manifest = artifact.manifest
        for spec in (manifest.input, *manifest.outputs):
            if spec.dtype not in DATATYPES:
                raise ArtifactError(f"{artifact.folder}: {spec.name!r} is {spec.dtype}, and served is float32")
        signature = signature_of(manifest, self.name, self._version + 1)
        limit = self._settings.max_batch
        return signature if limit is None else msgspec.structs.replace(signature, max_batch=limit)

    def _batcher_for(self, signature: Signature) -> Batcher:
        """The queue as it is, if the new version takes the same rows; else another, and the old one empties first."""
        if self._batcher is not None and self.signature is not None and _same_shape(self.signature, signature):
            return self._batcher
        settings, max_batch = self._settings, signature.max_batch
        rows = settings.queue_rows or max(_QUEUE_LEAST_ROWS, _QUEUE_BATCHES * max_batch)
        return Batcher(max_batch, settings.max_delay_us * 1e-6, max(rows, max_batch), settings.queue_timeout_s)

    def _new_pool(self, artifact: Artifact, signature: Signature, batcher: Batcher) -> Pool:
        # where a link points now: a worker that is replaced later must load the same artifact
        start = Start(str(self.path.resolve()), artifact.digest, signature.max_batch, self._settings.threads)
        shape = Shape(signature.max_batch, signature.row, tuple(output.row for output in signature.outputs))
        events = PoolEvents(
            idle=batcher.wake,
            ran=self.metrics.ran,
            died=batcher.again,
            restarted=self.metrics.restarted,
        )
        return Pool(start, shape, self._settings.workers, self._settings.run_timeout_s, events)


@final
class Models:
    """All models, by name. The paths that the server was started with are where they come from."""

    def __init__(self, paths: Sequence[tuple[str | None, Path]], settings: Settings, metrics: Metrics) -> None:
        self._paths = paths
        self._settings = settings
        self._metrics = metrics
        self._models: dict[str, Model] = {}

    def __getitem__(self, name: str) -> Model:
        """The model of a name, or a ``RequestError`` that lists those there are."""
        try:
            return self._models[name]
        except KeyError:
            known = ", ".join(sorted(self._models)[:20])
            raise RequestError(404, f"there is no model {name[:80]!r}; there are: {known}") from None

    def all(self) -> list[Model]:
        """The models, by name."""
        return [model for _, model in sorted(self._models.items())]

    @property
    def ready(self) -> bool:
        """Whether every model that was not unloaded on purpose can run requests."""
        return all(model.ready for model in self._models.values() if model.signature is not None) and any(
            model.signature is not None for model in self._models.values()
        )

    async def open(self) -> None:
        """Load all models; a ``UserError`` where one cannot be loaded."""
        for name, path in find(self._paths).items():
            self._add(name, path)
        try:
            for model in self.all():  # a SIGHUP may add another meanwhile
                await model.load()
        except RequestError as error:
            self.close()
            raise UserError(error.reason) from error

    async def reload(self) -> None:
        """Look at the paths again: load what is new or has changed; where that fails the old one runs on."""
        try:
            found = await asyncio.to_thread(find, self._paths, _leave)
        except UserError as error:
            _leave(error)
            return
        for name in sorted(set(self._models) - set(found)):
            log.warning("reload: %s is gone from disk, or cannot be read; what runs goes on", name)
        for name, path in found.items():
            model = self._models.get(name) or self._add(name, path)
            model.path = path
            try:
                artifact = await asyncio.to_thread(open_artifact, path, False)
                if artifact.digest == model.digest:
                    log.info("reload: %s has not changed", name)
                    continue
                await model.load()
            except (UserError, RequestError) as error:
                _leave(error)

    async def unload(self) -> None:
        """Finish all requests, end all workers."""
        await asyncio.gather(*(model.unload("the server stops") for model in self._models.values()))

    def close(self) -> None:
        """End all workers at once."""
        for model in self._models.values():
            model.close()

    def _add(self, name: str, path: Path) -> Model:
        self._models[name] = Model(name, path, self._settings, self._metrics.of(name))
        return self._models[name]


def find(
    paths: Sequence[tuple[str | None, Path]], refused: Callable[[UserError], None] | None = None
) -> dict[str, Path]:
    """The artifacts at or below the paths, by the name that they are served by.

    Args:
        paths: each with the name that it gets, or ``None`` for that of the manifest as ``served_name`` makes it.
        refused: told of an artifact whose manifest cannot be read, which is then left out; else that is an error.

    Raises:
        UserError: a path holds no artifact or more than the one that was named, or two have one name.
    """
    found: dict[str, Path] = {}
    for name, path in paths:
        folders = find_artifacts(path)
        if name is not None and len(folders) > 1:
            raise UserError(
                f"{path} holds {len(folders)} artifacts, which cannot all be named {name!r}; name one folder"
            )
        for folder in folders:
            try:
                key = name or _own_name(folder)
            except UserError as error:
                if refused is None:
                    raise
                refused(error)
                continue
            if key in found:
                raise UserError(
                    f"{found[key]} and {folder} are both named {key!r}; give one another name: OTHER={folder}"
                )
            found[key] = folder
    return found


def _own_name(folder: Path) -> str:
    """The name in the manifest, which a stranger may have chosen: it goes into the log, and into addresses."""
    name = open_artifact(folder, verify=False).manifest.name
    if not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
        raise ArtifactError(f"{folder} is named {name[:80]!r}, which is no name to serve; give one: NAME={folder}")
    return served_name(name)


def _leave(error: Exception) -> None:
    log.error("reload: %s; what runs goes on", error)


def _open(path: Path) -> Artifact:
    # the workers check every file's digest; here only the manifest is of interest
    return open_artifact(path, verify=False)


def _same_shape(a: Signature, b: Signature) -> bool:
    return (a.row, a.outputs, a.max_batch) == (b.row, b.outputs, b.max_batch)
