"""The engine interface, and how an artifact finds its engine."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

import runtime.engines
from runtime.artifact import Artifact, open_artifact
from runtime.errors import ArtifactError, UserError
from runtime.machine import check_requirements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Engine(ABC):
    """A loaded artifact. ``run`` may be called any number of times, from one Python thread at a time.

    Attributes:
        any_batch_size: whether ``run`` takes every number of pictures, or only the one in the manifest's shapes.
        load_ms: milliseconds that it took to load, without the check of the files' digests; 0 where not known.
    """

    any_batch_size = False
    load_ms = 0.0

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self.artifact = artifact
        self.threads = threads

    @abstractmethod
    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Run one batch.

        Args:
            inputs: one array by the name, shape and dtype that ``artifact.manifest.input`` gives; its first length
                may be another where ``any_batch_size``.

        Returns:
            One freshly allocated array by the name of ``artifact.manifest.output``, with as many rows as the input.

        Raises:
            UserError: a name, shape or dtype is not the manifest's.
        """

    def device_ms(self, inputs: Mapping[str, NDArray[np.float32]], cold: bool = False) -> float | None:
        """Milliseconds that a device of its own takes for a batch that lies in its memory, or ``None`` without one.

        Args:
            inputs: as for ``run``.
            cold: the device's caches are emptied before.
        """
        del inputs, cold
        return None

    def close(self) -> None:  # noqa: B027 - most engines hold nothing that the garbage collector does not free
        """Free threads and memory; the engine cannot run afterwards."""

    def checked_input(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """The input array, C-contiguous, or a ``UserError`` that says what does not fit."""
        spec = self.artifact.manifest.input
        if set(inputs) != {spec.name}:
            raise UserError(f"this artifact takes one input named {spec.name!r}, got {sorted(inputs)}")
        array = inputs[spec.name]
        picture = spec.shape[1:]
        fits = array.shape[1:] == picture if self.any_batch_size and array.ndim else array.shape == spec.shape
        if not fits or array.dtype != np.dtype(spec.dtype):
            wanted = f"(n, {', '.join(map(str, picture))})" if self.any_batch_size else str(spec.shape)
            advice = "; another batch size needs an artifact compiled for it (st3 compile --batch-size)"
            raise UserError(
                f"input {spec.name!r} must be {spec.dtype} {wanted}, got {array.dtype} {array.shape}"
                f"{'' if self.any_batch_size else advice}"
            )
        return np.ascontiguousarray(array)


def load(path: str | Path, threads: int | None = None, verify: bool = True, engine: str | None = None) -> Engine:
    """Open an artifact and load it into its engine.

    Args:
        path: the artifact's folder.
        threads: CPU threads to run on; the manifest's number if not given.
        verify: check every file's digest first.
        engine: who runs it, if not the engine that the artifact was built for: one that reads the same payload.

    Raises:
        ArtifactError: the artifact is damaged, or this machine lacks what it needs.
        UserError: ``threads`` is not positive.
    """
    artifact = open_artifact(Path(path), verify=verify)
    wanted = artifact.manifest.target.threads if threads is None else threads
    if wanted < 1:
        raise UserError(f"threads must be 1 or more, got {wanted}")
    check_requirements(artifact)
    key = engine or artifact.manifest.engine
    known = sorted(module.name for module in pkgutil.iter_modules(runtime.engines.__path__))
    if key not in known:
        raise ArtifactError(f"{path} needs the engine {key!r}; this runtime has {', '.join(known)}; update st3")
    return load_into(key, artifact, wanted)


def load_into(key: str, artifact: Artifact, threads: int) -> Engine:
    """Load an opened artifact into the engine of that name."""
    start = perf_counter()
    module = importlib.import_module(f"runtime.engines.{key}")
    loaded = module.load(artifact, threads)
    assert isinstance(loaded, Engine), f"runtime.engines.{key}.load returned {type(loaded)}"
    loaded.load_ms = (perf_counter() - start) * 1000
    return loaded
