"""Runs a network that our own generator compiled: shared libraries and their packed weights, through ctypes."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, final

import numpy as np

from runtime import files
from runtime.abi import (
    DONE,
    LIBRARY_FILE,
    LISTS_OUTPUTS,
    SIGNATURES,
    STEPS_FILE,
    WEIGHT_FILE,
    WEIGHT_HEADER,
    WEIGHT_MAGIC,
    batch_folder,
)
from runtime.batches import padded, pieces
from runtime.engine import Engine
from runtime.errors import ArtifactError, UserError
from runtime.steps import StepTime, read_steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from runtime.artifact import Artifact, Manifest, TensorSpec
    from runtime.tensors import DLPack


@final
class Network:
    """One batch size: its library and weights, and from ``open`` to ``close`` its tensors and sleeping threads."""

    def __init__(self, artifact: Artifact, place: str, size: int, threads: int) -> None:
        self.folder = artifact.folder / place
        self.threads = threads
        self.library = _library(artifact, f"{place}/{LIBRARY_FILE}", size)
        version = self.library.st3_abi_version()
        self._weights = _weights(artifact, f"{place}/{WEIGHT_FILE}", version)
        self._handle = 0
        # before it was a list, the one output was the pointer itself
        self._outputs = (ctypes.c_void_p * len(artifact.manifest.outputs))() if version >= LISTS_OUTPUTS else None

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

    def outputs(self, results: Sequence[NDArray[np.float32]]) -> int:
        """What the library's functions take for the outputs; good until the next call."""
        if self._outputs is None:
            return results[0].ctypes.data
        for index, result in enumerate(results):
            self._outputs[index] = result.ctypes.data
        return ctypes.addressof(self._outputs)

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

    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        """The largest compiled batches come first; a rest below the smallest one runs in that, filled up with zeros."""
        start = 0
        for size, count in pieces(len(given), self._sizes):
            batch, rows = given[start : start + count], [result[start : start + count] for result in results]
            if count == size:
                self._call("st3_run", size, batch, rows)
            else:
                full = self._room(size)
                self._call("st3_run", size, padded(batch, size), full)
                for part, whole in zip(rows, full, strict=True):
                    part[:] = whole[:count]
            start += count

    def _room(self, size: int) -> list[NDArray[np.float32]]:
        """Fresh memory for the outputs of a batch."""
        return [np.empty((size, *spec.shape[1:]), np.float32) for spec in self.artifact.manifest.outputs]

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
            if not hasattr(network.library, "st3_profile"):
                raise UserError(f"{network.folder} is of an older st3 and cannot be profiled; compile it again")
            steps = read_steps(network.folder / STEPS_FILE)
            step_ns = np.zeros(network.library.st3_step_count(), np.uint64)
            self._call("st3_profile", size, given, self._room(size), step_ns.ctypes.data)
            return tuple(StepTime(step, float(ns) / 1e6) for step, ns in zip(steps, step_ns, strict=True))
        finally:
            self._running.release()

    def _free(self) -> None:
        """Stop the threads and free the tensors."""
        self._finalizer()

    def _call(
        self, function: str, size: int, batch: NDArray[np.float32], results: Sequence[NDArray[np.float32]], *more: int
    ) -> None:
        network = self._networks[size]
        run = getattr(network.library, function)
        status = run(network.open(), batch.ctypes.data, network.outputs(results), *more)
        assert status == DONE, f"{function} returned {status}"


def load(artifact: Artifact, threads: int) -> Engine:
    """Load the libraries; raises ``ArtifactError`` where one cannot be loaded or does not fit its weights."""
    sizes = artifact.manifest.target.sizes
    places = {size: f"payload/{batch_folder(size)}" for size in sizes}
    if len(sizes) == 1 and f"payload/{LIBRARY_FILE}" in artifact.manifest.files:  # as schema 1 has it
        places = {sizes[0]: "payload"}
    networks = {size: Network(artifact, place, size, threads) for size, place in places.items()}
    networks[min(networks)].open()
    return NativeEngine(artifact, threads, networks)


def _weights(artifact: Artifact, name: str, version: int) -> NDArray[np.uint8]:
    """The weight file, mapped, or in private memory where it must be what was demanded; its header is checked.

    ABI 1 has no length in the header: its libraries know how long their file must be.
    """
    path = artifact.folder / name
    if artifact.trusted:
        content = artifact.read(name)
    else:
        try:
            with files.opened(artifact.folder, name) as handle:
                content = np.memmap(open(handle, "rb", closefd=False), np.uint8, "r")  # noqa: SIM115
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); copy or compile the artifact again") from error
    head = content[: WEIGHT_HEADER.size].tobytes()
    magic, _, length = WEIGHT_HEADER.unpack(head) if len(head) == WEIGHT_HEADER.size else (b"", 0, 0)
    if magic != WEIGHT_MAGIC or (version > 1 and length != content.size):
        raise ArtifactError(
            f"{path} is no weight file, or was cut: it does not belong to this library; copy or compile the artifact "
            f"again"
        )
    return content


def _library(artifact: Artifact, name: str, size: int) -> ctypes.CDLL:
    """The library, of an ABI that this runtime speaks, for tensors of the manifest's shapes and ``size`` pictures."""
    path = artifact.folder / name
    manifest = artifact.manifest
    content = artifact.read(name)
    try:
        library = files.load_library(content, path, artifact.trusted)
        version = library.st3_abi_version()
        if version not in SIGNATURES:
            speaks = ", ".join(map(str, SIGNATURES))
            raise ArtifactError(f"{path} speaks ABI {version}, this runtime {speaks}; compile again or update st3")
        for function, (result, arguments) in SIGNATURES[version].items():
            found = getattr(library, function)
            found.restype, found.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ArtifactError(f"{path} cannot be loaded ({error}); compile it on a system like this one") from error
    for floats, spec in _lengths(path, library, version, manifest):
        if floats * manifest.target.batch_size != spec.elements * size:
            raise ArtifactError(
                f"{path} was compiled for {floats} numbers of {spec.name!r}, the manifest says {spec.shape} in "
                f"batches of {size}; it does not belong to this library: copy or compile the artifact again"
            )
    return library


def _lengths(path: Path, library: ctypes.CDLL, version: int, manifest: Manifest) -> list[tuple[int, TensorSpec]]:
    """How many numbers the library has for each tensor of the manifest; nothing where it is too old to say."""
    lists = version >= LISTS_OUTPUTS
    count = library.st3_output_count() if lists else 1
    if count != len(manifest.outputs):
        raise ArtifactError(
            f"{path} has {count} outputs, the manifest {len(manifest.outputs)}; it does not belong to this library: "
            f"copy or compile the artifact again"
        )
    if version < 3:
        return []
    found = [library.st3_output_floats(index) for index in range(count)] if lists else [library.st3_output_floats()]
    return list(zip([library.st3_input_floats(), *found], (manifest.input, *manifest.outputs), strict=True))


def _close(networks: tuple[Network, ...]) -> None:
    for network in networks:
        network.close()
