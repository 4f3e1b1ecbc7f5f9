"""Runs a network that our own generator compiled: a shared library and its packed weights, through ctypes."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING

import numpy as np

from runtime.abi import ABI_VERSION, BUSY, LIBRARY_FILE, SIGNATURES, WEIGHT_FILE
from runtime.engine import Engine
from runtime.errors import ArtifactError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from runtime.artifact import Artifact


class NativeEngine(Engine):
    """One opened network: its weights are memory-mapped, its threads sleep between runs."""

    def __init__(
        self, artifact: Artifact, threads: int, library: ctypes.CDLL, weights: NDArray[np.uint8], handle: int
    ) -> None:
        super().__init__(artifact, threads)
        self._weights = weights  # the library reads this mapping for as long as the handle lives
        self._run = library.st3_run
        self._handle = handle
        self._finalizer = weakref.finalize(self, library.st3_close, handle)

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """See ``Engine.run``. A second Python thread that calls while one runs gets a ``UserError``."""
        if not self._finalizer.alive:
            raise UserError("this engine was closed; load the artifact again")
        given = self.checked_input(inputs)
        spec = self.artifact.manifest.output
        result = np.empty(spec.shape, np.float32)
        status = self._run(self._handle, given.ctypes.data, result.ctypes.data)
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
