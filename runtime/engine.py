"""The engine interface, and how an artifact finds its engine."""

from __future__ import annotations

import importlib
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

import runtime.engines
from runtime.artifact import Artifact, open_artifact
from runtime.errors import ArtifactError, UserError
from runtime.machine import check_requirements
from runtime.tensors import chosen, host_array, output_array
from runtime.trust import trust_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from runtime.tensors import DLPack


class Engine(ABC):
    """A loaded artifact: runs one batch at a time, any number of times.

    Threads: an engine belongs to one Python thread at a time. A second one that calls it meanwhile gets a
    ``UserError`` at once; nothing is computed wrongly and nothing waits. ``close`` waits for a run. Engines share no
    state, so one per thread runs in parallel; the computing itself lets go of Python's lock. (torch's thread count,
    of which ``inductor`` has no other, is the process's.)

    Copies: an input that is C-contiguous and aligned is read where it lies, and answers are written straight into the
    arrays that ``out`` gives, or into fresh ones. Where an engine needs a copy after all (a batch that must be filled
    up, a GPU's memory, torch), its class says so.

    Attributes:
        any_batch_size: whether ``run`` takes every number of pictures, or only the one in the manifest's shapes.
        load_ms: milliseconds that it took to load, without the check of the files' digests; 0 where not known.
    """

    any_batch_size = False
    load_ms = 0.0

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self.artifact = artifact
        self.threads = threads
        self._running = threading.Lock()
        self._closed = False

    def run(
        self, inputs: Mapping[str, DLPack], out: Mapping[str, DLPack] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Run one batch that lies in this machine's memory.

        Args:
            inputs: one array by the name, shape and dtype that ``artifact.manifest.input`` gives; its first length
                may be another where ``any_batch_size``. A numpy array, or whatever has ``__dlpack__``.
            out: by an output's name an array that it is written into; outputs that it does not name are fresh.

        Returns:
            By the names of ``artifact.manifest.outputs``, in their order, an array each with as many rows as the
            input: fresh, or ``out``'s memory.

        Raises:
            UserError: a name, shape or dtype is not the manifest's; ``out`` cannot be written into; the engine is
                running in another thread or was closed.
        """
        self._begin()
        try:
            given = self.checked_input(inputs)
            results = self._results(out, given)
            self._compute(given, tuple(results.values()))
            return results
        finally:
            self._running.release()

    def run_on_device(self, inputs: Mapping[str, DLPack], out: Mapping[str, DLPack] | None = None) -> dict[str, DLPack]:
        """Run one batch that lies in the GPU's memory, without a copy through the host's.

        The work is put on torch's current stream, after what the input's library has put on its own; nothing waits
        for the GPU. What comes back is a torch tensor: ``cupy.from_dlpack(answer)`` waits on the GPU by itself.

        Args:
            inputs: as for ``run``, in the memory of the GPU that the artifact was loaded on.
            out: by an output's name a tensor of the GPU that it is written into.

        Raises:
            UserError: the engine computes on the CPU, or as for ``run``.
        """
        self._begin()
        try:
            return self._compute_on_device(inputs, out)
        finally:
            self._running.release()

    def device_ms(self, inputs: Mapping[str, DLPack], cold: bool = False) -> float | None:
        """Milliseconds that a device of its own takes for a batch that lies in its memory, or ``None`` without one.

        Args:
            inputs: as for ``run``.
            cold: the device's caches are emptied before.
        """
        del inputs, cold
        return None

    def close(self) -> None:
        """Free threads and memory, after a run in another thread has ended; the engine cannot run afterwards."""
        with self._running:
            if not self._closed:
                self._closed = True
                self._free()

    def checked_input(self, inputs: Mapping[str, DLPack]) -> NDArray[np.float32]:
        """The input as a C-contiguous, aligned array, uncopied if it is; or a ``UserError`` that says what is wrong."""
        spec = self.artifact.manifest.input
        if set(inputs) != {spec.name}:
            raise UserError(f"this artifact takes one input named {spec.name!r}, got {sorted(map(str, inputs))}")
        array = host_array(inputs[spec.name], spec.name)
        # compared as types: the name of a type takes longer than all else that a call does
        if array.dtype != np.float32 or not self._takes(array.shape):
            self.refuse_unfit(array.shape, str(array.dtype))
        flags = array.flags
        return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=("C", "A"))

    def refuse_unfit(self, shape: Sequence[int], dtype: str) -> None:
        """Raise a ``UserError`` that says what the input should be, where it is of another shape or dtype."""
        spec = self.artifact.manifest.input
        if self._takes(tuple(shape)) and dtype == spec.dtype:
            return
        wanted = f"(n, {', '.join(map(str, spec.shape[1:]))})" if self.any_batch_size else str(spec.shape)
        advice = "; another batch size needs an artifact compiled for it (st3 compile --batch-size)"
        raise UserError(
            f"input {spec.name!r} must be {spec.dtype} {wanted}, got {dtype} {tuple(shape)}"
            f"{'' if self.any_batch_size else advice}"
        )

    def _takes(self, shape: tuple[int, ...]) -> bool:
        wanted = self.artifact.manifest.input.shape
        return shape[1:] == wanted[1:] and len(shape) == len(wanted) if self.any_batch_size else shape == wanted

    @abstractmethod
    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        """Write each output for ``given`` into its place in ``results``, in the manifest's order.

        All are C-contiguous and of the manifest's shapes, but for the number of rows.
        """

    def _compute_on_device(self, inputs: Mapping[str, DLPack], out: Mapping[str, DLPack] | None) -> dict[str, DLPack]:
        """See ``run_on_device``; engines of a GPU have their own."""
        del inputs, out
        raise UserError(f"{self.artifact.folder} runs on the CPU; call run, or compile it with --target cuda")

    def _free(self) -> None:  # noqa: B027 - most engines hold nothing that the garbage collector does not free
        """Free what ``close`` frees."""

    def _begin(self) -> None:
        """Claim the engine for this thread; what follows must release ``_running``."""
        if not self._running.acquire(blocking=False):
            raise UserError("this engine is running in another thread; load the artifact once per thread")
        if self._closed:
            self._running.release()
            raise UserError("this engine was closed; load the artifact again")

    def _results(self, out: Mapping[str, DLPack] | None, given: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """By name what each output is written into."""
        outputs, rows = self.artifact.manifest.outputs, len(given)
        wanted = chosen(out, [spec.name for spec in outputs])
        taken = {"the input, which is still read": given}
        results = {}
        for spec in outputs:
            shape = (rows, *spec.shape[1:])
            if spec.name in wanted:
                results[spec.name] = output_array(wanted[spec.name], spec.name, shape, taken)
                taken[f"output {spec.name!r}"] = results[spec.name]
            else:
                results[spec.name] = np.empty(shape, np.float32)
        return results


def load(
    path: str | Path,
    threads: int | None = None,
    verify: bool = True,
    engine: str | None = None,
    require_digest: str | None = None,
    require_signature: str | Path | None = None,
) -> Engine:
    """Open an artifact and load it into its engine. A native artifact is code: see ``docs/security.md``.

    Args:
        path: the artifact's folder.
        threads: CPU threads to run on; the manifest's number if not given.
        verify: check every file's digest first.
        engine: who runs it, if not the engine that the artifact was built for: one that reads the same payload.
        require_digest: refuse all but the artifact with this digest, ``sha256:`` and 64 hex digits (several with commas
            between); if not given, what the environment variable ``ST3_REQUIRE_DIGEST`` says.
        require_signature: PEM file of an ed25519 public key (several with colons between); refuse what none of them has
            signed; if not given, what ``ST3_REQUIRE_SIGNATURE`` says.

    Raises:
        ArtifactError: the artifact is damaged or is not what is required, or this machine lacks what it needs.
        UserError: ``threads`` is not positive, or a requirement makes no sense.
    """
    trust = trust_from(require_digest, require_signature)
    artifact = open_artifact(Path(path), verify=verify, trust=trust)
    wanted = artifact.manifest.target.threads if threads is None else threads
    if wanted < 1:
        raise UserError(f"threads must be 1 or more, got {wanted}")
    check_requirements(artifact)
    key = engine or artifact.manifest.engine
    known = engine_names()
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


def engine_names() -> list[str]:
    """The engines that this runtime has; a file in ``runtime/engines`` is one."""
    import pkgutil

    return sorted(module.name for module in pkgutil.iter_modules(runtime.engines.__path__))
