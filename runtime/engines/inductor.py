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
    from collections.abc import Callable, Mapping
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

    def _compute(self, given: NDArray[np.float32], result: NDArray[np.float32]) -> None:
        """The input is read in place; the answer lies in a buffer of the package's and is copied once."""
        import torch

        with torch.inference_mode():
            answer = self._package(torch.from_numpy(given))
        tensor = answer[0] if isinstance(answer, (list, tuple)) else answer
        torch.from_numpy(result).copy_(tensor)


@final
class CudaEngine(Engine):
    """One CUDA graph. A host's arrays pass through pinned memory; a GPU's tensors are copied on the GPU."""

    def __init__(self, artifact: Artifact, threads: int, function: Callable[[Tensor], Tensor]) -> None:
        import torch

        from runtime.cuda.replay import Replay

        super().__init__(artifact, threads)
        manifest = artifact.manifest
        self._replay = Replay(function, torch.zeros(manifest.input.shape, device="cuda"))
        self._input = torch.empty(manifest.input.shape, pin_memory=True)
        self._output = torch.empty(manifest.output.shape, pin_memory=True)

    def _compute(self, given: NDArray[np.float32], result: NDArray[np.float32]) -> None:
        import torch

        self._fill(given)
        self._replay.replay()
        self._output.copy_(self._replay.output, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        torch.from_numpy(result).copy_(self._output)

    def _compute_on_device(self, inputs: Mapping[str, DLPack], out: Mapping[str, DLPack] | None) -> dict[str, DLPack]:
        from runtime.cuda.exchange import device_input, device_output

        self._replay.input.copy_(device_input(self, inputs, self._replay.input.device), non_blocking=True)
        answer = device_output(self, out, self._replay.output)
        self._replay.replay()
        answer.copy_(self._replay.output, non_blocking=True)
        return {self.artifact.manifest.output.name: answer}

    def device_ms(self, inputs: Mapping[str, DLPack], cold: bool = False) -> float | None:
        """See ``Engine.device_ms``: CUDA events around one replay of the graph."""
        from runtime.cuda.replay import replay_us

        self._fill(self.checked_input(inputs))
        # the first one keeps the GPU busy while the second is started, which would count as its time otherwise
        return replay_us([self._replay.replay] * 2, cold)[-1] / 1000.0

    def _fill(self, given: NDArray[np.float32]) -> None:
        import torch

        self._input.copy_(torch.from_numpy(given))
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


def load_function(artifact: Artifact) -> Callable[[Tensor], Tensor]:
    """The network as a function of a float32 tensor on the GPU, its custom ops registered."""
    from runtime.cuda import gpu, nvrtc

    register_ops(artifact)
    nvrtc.add_shipped(artifact.payload / nvrtc.SHIPPED)
    gpu.prepare(artifact.manifest.target.dtype)
    if f"payload/{PACKAGE}" in artifact.manifest.files:
        from runtime.cuda.replay import first_tensor

        package = _loaded(artifact, True)
        return lambda x: first_tensor(package(x))
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
