"""Runs what torch compiled: ``payload/model.pt2`` of AOTInductor's, or ``payload/exported.pt2``, an exported program.

A CPU's package is called as it is. On a GPU the whole network is captured as one CUDA graph with static buffers.
"""

from __future__ import annotations

import importlib
import io
import pkgutil
import warnings
from typing import TYPE_CHECKING, final

from runtime.engine import Engine
from runtime.errors import ArtifactError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from runtime.artifact import Artifact
    from runtime.tensors import DLPack

PACKAGE = "model.pt2"
PROGRAM = "exported.pt2"


@final
class InductorEngine(Engine):
    """One AOTInductor package; torch is only its tensor library, nothing is compiled here."""

    def __init__(self, artifact: Artifact, threads: int, package: Any) -> None:
        super().__init__(artifact, threads)
        self._package = package

    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        """The input is read in place; the answers lie in buffers of the package's and are copied once."""
        import torch

        from runtime.cuda.replay import tensors_of

        with torch.inference_mode():
            answers = tensors_of(self._package(torch.from_numpy(given)))
        for result, answer in zip(results, answers, strict=True):
            torch.from_numpy(result).copy_(answer)


@final
class CudaEngine(Engine):
    """One CUDA graph. A host's arrays pass through pinned memory; a GPU's tensors are copied on the GPU."""

    def __init__(self, artifact: Artifact, threads: int, function: Callable[[Tensor], object]) -> None:
        import torch

        from runtime.cuda.replay import Replay

        super().__init__(artifact, threads)
        manifest = artifact.manifest
        self._replay = Replay(function, torch.zeros(manifest.input.shape, device="cuda"))
        self._input = torch.empty(manifest.input.shape, pin_memory=True)
        self._outputs = [torch.empty(spec.shape, pin_memory=True) for spec in manifest.outputs]
        # a caller may use another stream each time, and the graph has one set of buffers
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        import torch

        self._fill(given)
        self._replay.replay()
        for pinned, made in zip(self._outputs, self._replay.outputs, strict=True):
            pinned.copy_(made, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        for result, pinned in zip(results, self._outputs, strict=True):
            torch.from_numpy(result).copy_(pinned)

    def _compute_on_device(self, inputs: Mapping[str, DLPack], out: Mapping[str, DLPack] | None) -> dict[str, DLPack]:
        import torch

        from runtime.cuda.exchange import device_input, device_outputs

        given = device_input(self, inputs, self._replay.input.device)
        answers = device_outputs(self, out, self._replay.input.device)
        stream = torch.cuda.current_stream()
        stream.wait_event(self._done)
        self._replay.input.copy_(given, non_blocking=True)
        self._replay.replay()
        for answer, made in zip(answers.values(), self._replay.outputs, strict=True):
            answer.copy_(made, non_blocking=True)
        self._done.record(stream)
        return dict(answers)

    def device_ms(self, inputs: Mapping[str, DLPack], cold: bool = False) -> float | None:
        """See ``Engine.device_ms``: CUDA events around one replay of the graph."""
        from runtime.cuda.replay import replay_us

        self._fill(self.checked_input(inputs))
        # the first one keeps the GPU busy while the second is started, which would count as its time otherwise
        return replay_us([self._replay.replay] * 2, cold)[-1] / 1000.0

    def _fill(self, given: NDArray[np.float32]) -> None:
        import torch

        self._input.copy_(torch.from_numpy(given))
        torch.cuda.current_stream().wait_event(self._done)
        self._replay.input.copy_(self._input, non_blocking=True)


def load(artifact: Artifact, threads: int) -> Engine:
    """Load the payload; the thread count is torch's own and so holds for the whole process.

    Raises:
        ArtifactError: torch cannot load it, or it is for a GPU that this machine does not have.
    """
    import torch

    torch.set_num_threads(threads)
    # inputs are only read, be their memory writable or not
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    if artifact.manifest.target.device == "cuda":
        check_gpu(artifact)
        return CudaEngine(artifact, threads, load_function(artifact))
    return InductorEngine(artifact, threads, _loaded(artifact, False))


def check_gpu(artifact: Artifact) -> None:
    """Raise ``ArtifactError`` where this machine's GPU is not the one that an artifact was built for."""
    from runtime.cuda import gpu

    wanted, here = artifact.manifest.target.architecture, gpu.architecture()
    if here == wanted:
        return
    has = "no GPU that torch can use" if here is None else f"{here} ({gpu.name()})"
    advice = "run it there" if here is None else f"run it there, or compile it here (--arch {here})"
    raise ArtifactError(f"{artifact.folder} needs a GPU of architecture {wanted}; this machine has {has}; {advice}")


def load_function(artifact: Artifact) -> Callable[[Tensor], object]:
    """The network as a function of a float32 tensor on the GPU, its custom ops registered; see ``tensors_of``."""
    from runtime.cuda import gpu, nvrtc

    register_ops(artifact)
    nvrtc.add_shipped(artifact.payload / nvrtc.SHIPPED)
    gpu.prepare(artifact.manifest.target.dtype)
    if f"payload/{PACKAGE}" in artifact.manifest.files:
        package = _loaded(artifact, True)
        return lambda x: package(x)
    module = _exported(artifact).to("cuda")
    return lambda x: module(x)


def register_ops(artifact: Artifact) -> None:
    """Import the modules that the payload's custom ops come from."""
    import runtime.cuda

    known = {module.name for module in pkgutil.iter_modules(runtime.cuda.__path__)}
    for name in artifact.manifest.requirements.ops:
        if name not in known:
            raise ArtifactError(
                f"{artifact.folder} needs the op {name!r}, which this runtime does not have; update st3"
            )
        importlib.import_module(f"runtime.cuda.{name}")


def _loaded(artifact: Artifact, single: bool) -> Any:
    """The package; ``single`` leaves out the events between calls, which a CUDA graph cannot hold."""
    import torch

    path = artifact.payload / PACKAGE
    content = artifact.read(f"payload/{PACKAGE}").tobytes()
    try:
        # torch unpacks it into a folder of its own, so what was checked is what runs
        return torch._inductor.aoti_load_package(io.BytesIO(content), run_single_threaded=single)
    except Exception as error:  # the loader raises whatever the C++ side threw
        raise ArtifactError(f"torch {torch.__version__} cannot load {path}: {error}") from error


def _exported(artifact: Artifact) -> Any:
    import torch

    from runtime.exported import refuse_code

    path = artifact.payload / PROGRAM
    content = artifact.read(f"payload/{PROGRAM}").tobytes()
    try:
        refuse_code(path, content)
    except UserError as error:
        raise ArtifactError(str(error)) from error
    try:
        return torch.export.load(io.BytesIO(content)).module(check_guards=False)
    except Exception as error:  # torch raises many types; all mean that this file cannot be read
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"torch {torch.__version__} cannot load {path}: {first}") from error
