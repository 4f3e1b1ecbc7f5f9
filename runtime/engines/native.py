"""Runs a network that our own generator compiled: a shared library and its packed weights, through ctypes."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING

import numpy as np

from runtime.abi import ABI_VERSION, BUSY, LIBRARY_FILE, SIGNATURES, STEPS_FILE, WEIGHT_FILE
from runtime.engine import Engine
from runtime.errors import ArtifactError, UserError
from runtime.steps import StepTime, read_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from runtime.artifact import Artifact


class NativeEngine(Engine):
    """One opened network: its weights are memory-mapped, its threads sleep between runs."""

    def __init__(
        self, artifact: Artifact, threads: int, library: ctypes.CDLL, weights: NDArray[np.uint8], handle: int
    ) -> None:
        super().__init__(artifact, threads)
        self._weights = weights  # the library reads this mapping for as long as the handle lives
        self._library = library
        self._handle = handle
        self._finalizer = weakref.finalize(self, library.st3_close, handle)

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """See ``Engine.run``. A second Python thread that calls while one runs gets a ``UserError``."""
        return self._call(self._library.st3_run, inputs)

    def profile(self, inputs: Mapping[str, NDArray[np.float32]]) -> tuple[StepTime, ...]:
        """Run one batch as ``run`` does and time each step.

        Where each thread runs groups of pictures on its own, a step's time is the mean over the threads, so that the
        times still add up to about the whole.
        """
        steps = read_steps(self.artifact.payload / STEPS_FILE)
        step_ns = np.zeros(self._library.st3_step_count(), np.uint64)
        self._call(self._library.st3_profile, inputs, step_ns.ctypes.data)
        return tuple(StepTime(step, float(ns) / 1e6) for step, ns in zip(steps, step_ns, strict=True))

    def _call(
        self, function: Callable[..., int], inputs: Mapping[str, NDArray[np.float32]], *more: int
    ) -> dict[str, NDArray[np.float32]]:
        if not self._finalizer.alive:
            raise UserError("this engine was closed; load the artifact again")
        given = self.checked_input(inputs)
        spec = self.artifact.manifest.output
        result = np.empty(spec.shape, np.float32)
        status = function(self._handle, given.ctypes.data, result.ctypes.data, *more)
        if status == BUSY:
            raise UserError("this engine is running in another thread; load the artifact once per thread")
        return {spec.name: result}

    def close(self) -> None:
        """Stop the threads and free the tensors."""
        self._finalizer()


def load(artifact: Artifact, threads: int) -> Engine:
    """Open the library; raises ``ArtifactError`` where it cannot be loaded or does not fit its weights."""
    path = artifact.payload / LIBRARY_FILE
    try:
        library = ctypes.CDLL(str(path.resolve()))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ArtifactError(f"{path} cannot be loaded ({error}); compile it on a system like this one") from error
    version = library.st3_abi_version()
    if version != ABI_VERSION:
        raise ArtifactError(f"{path} speaks ABI {version}, this runtime {ABI_VERSION}; compile again or update st3")
    weights = np.memmap(artifact.payload / WEIGHT_FILE, np.uint8, mode="r")
    message = ctypes.create_string_buffer(256)
    handle = library.st3_open(weights.ctypes.data, weights.size, threads, message, len(message))
    if not handle:
        raise ArtifactError(f"{path} cannot be opened: {message.value.decode(errors='replace')}")
    return NativeEngine(artifact, threads, library, weights, handle)
