"""Runs a network that our own generator compiled: shared libraries and their packed weights, through ctypes."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, final

import numpy as np

from runtime.abi import ABI_VERSION, DONE, LIBRARY_FILE, SIGNATURES, STEPS_FILE, WEIGHT_FILE, batch_folder
from runtime.batches import padded, pieces
from runtime.engine import Engine
from runtime.errors import ArtifactError, UserError
from runtime.steps import StepTime, read_steps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from runtime.artifact import Artifact
    from runtime.tensors import DLPack


@final
class Network:
    """One batch size: its library and weights, and from ``open`` to ``close`` its tensors and sleeping threads."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.threads = threads
        self.library = _library(folder / LIBRARY_FILE)
        try:
            # the library reads this mapping for as long as the handle lives
            self._weights = np.memmap(folder / WEIGHT_FILE, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{folder / WEIGHT_FILE} cannot be read ({error}); copy or compile the artifact again"
            ) from error
        self._handle = 0

    def open(self) -> int:
        """The handle; the first call takes memory and threads, or raises ``ArtifactError`` where there are too few."""
        if not self._handle:
            message = ctypes.create_string_buffer(256)
            weights = self._weights
            handle = self.library.st3_open(weights.ctypes.data, weights.size, self.threads, message, len(message))
            if not handle:
                raise ArtifactError(
                    f"{self.folder / LIBRARY_FILE} cannot be opened: {message.value.decode(errors='replace')}"
                )
            self._handle = handle
        return self._handle

    def close(self) -> None:
        """Stop the threads and free the tensors."""
        if self._handle:
            self.library.st3_close(self._handle)
            self._handle = 0


@final
class NativeEngine(Engine):
    """The networks of an artifact, one per batch size that it was compiled for; a batch is cut to fit them.

    The network of the smallest size is opened at once, the others when they are first needed: each has tensors and
    threads of its own, and the threads of those that do not run sleep.
    """

    any_batch_size = True

    def __init__(self, artifact: Artifact, threads: int, networks: dict[int, Network]) -> None:
        super().__init__(artifact, threads)
        self._networks = networks
        self._sizes = tuple(sorted(networks, reverse=True))
        self._finalizer = weakref.finalize(self, _close, tuple(networks.values()))

    def _compute(self, given: NDArray[np.float32], result: NDArray[np.float32]) -> None:
        """The largest compiled batches come first; a rest below the smallest one runs in that, filled up with zeros."""
        start = 0
        for size, count in pieces(len(given), self._sizes):
            batch, rows = given[start : start + count], result[start : start + count]
            if count == size:
                self._call("st3_run", size, batch, rows)
            else:
                full = np.empty((size, *result.shape[1:]), np.float32)
                self._call("st3_run", size, padded(batch, size), full)
                rows[:] = full[:count]
            start += count

    def profile(self, inputs: Mapping[str, DLPack]) -> tuple[StepTime, ...]:
        """Run one batch of a compiled size as ``run`` does and time each step.

        Where each thread runs groups of pictures on its own, a step's time is the mean over the threads, so that the
        times still add up to about the whole.
        """
        self._begin()
        try:
            given = self.checked_input(inputs)
            size = len(given)
            if size not in self._networks:
                compiled = ", ".join(map(str, self._sizes))
                raise UserError(f"a profile takes a batch of a compiled size ({compiled}), got {size} pictures")
            network = self._networks[size]
            steps = read_steps(network.folder / STEPS_FILE)
            result = np.empty((size, *self.artifact.manifest.output.shape[1:]), np.float32)
            step_ns = np.zeros(network.library.st3_step_count(), np.uint64)
            self._call("st3_profile", size, given, result, step_ns.ctypes.data)
            return tuple(StepTime(step, float(ns) / 1e6) for step, ns in zip(steps, step_ns, strict=True))
        finally:
            self._running.release()

    def _free(self) -> None:
        """Stop the threads and free the tensors."""
        self._finalizer()

    def _call(
        self, function: str, size: int, batch: NDArray[np.float32], result: NDArray[np.float32], *more: int
    ) -> None:
        network = self._networks[size]
        status = getattr(network.library, function)(network.open(), batch.ctypes.data, result.ctypes.data, *more)
        assert status == DONE, f"{function} returned {status}"


def load(artifact: Artifact, threads: int) -> Engine:
    """Load the libraries; raises ``ArtifactError`` where one cannot be loaded or does not fit its weights."""
    target = artifact.manifest.target
    folders = {size: artifact.payload / batch_folder(size) for size in target.sizes}
    for size, folder in folders.items():
        if f"payload/{folder.name}/{LIBRARY_FILE}" not in artifact.manifest.files:
            raise ArtifactError(
                f"{artifact.folder} has no {folder.name}/{LIBRARY_FILE} for batch size {size}: it was compiled by an "
                f"older st3; compile it again"
            )
    networks = {size: Network(folder, threads) for size, folder in folders.items()}
    networks[min(networks)].open()
    return NativeEngine(artifact, threads, networks)


def _library(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path.resolve()))
        version = library.st3_abi_version()
        if version != ABI_VERSION:
            raise ArtifactError(f"{path} speaks ABI {version}, this runtime {ABI_VERSION}; compile again or update st3")
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ArtifactError(f"{path} cannot be loaded ({error}); compile it on a system like this one") from error
    return library


def _close(networks: tuple[Network, ...]) -> None:
    for network in networks:
        network.close()
