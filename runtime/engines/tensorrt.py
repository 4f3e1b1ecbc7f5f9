"""Runs ``payload/model.plan`` with TensorRT: fixed device buffers, pinned host memory, one CUDA graph per run."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, final

import numpy as np

from runtime.engine import Engine
from runtime.errors import ArtifactError
from runtime.trt import PLAN_FILE, TITLES, PlanInfo, read_info, require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from runtime.artifact import Artifact
    from runtime.tensors import DLPack

_WARM_UP = 2  # TensorRT allocates and, for RTX, compiles when it runs first


@final
class TensorRtEngine(Engine):
    """One execution context with its own stream; torch is only what allocates and captures.

    Attributes:
        captured: whether a run is one CUDA graph: copy in, the network, copy out. TensorRT for RTX may refuse.
    """

    def __init__(self, artifact: Artifact, threads: int, engine: Any, context: Any, owners: tuple[Any, ...]) -> None:
        import torch

        super().__init__(artifact, threads)
        self._owners = owners  # TensorRT's logger and runtime must live as long as what they made
        self._engine, self._context = engine, context
        spec = artifact.manifest
        self._host_in = torch.empty(spec.input.shape, dtype=torch.float32, pin_memory=True)
        self._host_out = [torch.empty(out.shape, dtype=torch.float32, pin_memory=True) for out in spec.outputs]
        self._device_in = torch.empty(spec.input.shape, dtype=torch.float32, device="cuda")
        self._device_out = [torch.empty(out.shape, dtype=torch.float32, device="cuda") for out in spec.outputs]
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: Any = None
        self._bind()
        self._prepare()

    @property
    def captured(self) -> bool:
        """See the class."""
        return self._graph is not None

    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        """Through pinned memory, from which and to which the GPU copies by itself."""
        import torch

        np.copyto(self._host_in.numpy(), given)
        with torch.cuda.stream(self._stream):
            if self._graph is None:
                self._enqueue()
            else:
                self._graph.replay()
        self._stream.synchronize()
        for result, pinned in zip(results, self._host_out, strict=True):
            np.copyto(result, pinned.numpy())

    def _compute_on_device(self, inputs: Mapping[str, DLPack], out: Mapping[str, DLPack] | None) -> dict[str, DLPack]:
        """Without the graph, which holds the copies from and to the host."""
        import torch

        from runtime.cuda.exchange import device_input, device_outputs

        given = device_input(self, inputs, self._device_in.device)
        answers = device_outputs(self, out, self._device_in.device)
        caller = torch.cuda.current_stream()
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            self._device_in.copy_(given, non_blocking=True)
            self._execute()
            for answer, made in zip(answers.values(), self._device_out, strict=True):
                answer.copy_(made, non_blocking=True)
        caller.wait_stream(self._stream)
        return dict(answers)

    def _free(self) -> None:
        """Free the graph and TensorRT's memory."""
        self._graph = self._context = self._engine = None

    def _bind(self) -> None:
        """Tie the plan's tensors to the buffers."""
        for name, buffer in self._buffers().items():
            elements, kind = int(np.prod(self._engine.get_tensor_shape(name))), self._engine.get_tensor_dtype(name).name
            if elements != buffer.numel() or kind != "FLOAT":
                raise ArtifactError(
                    f"{self.artifact.payload / PLAN_FILE} has a tensor {name!r} of {elements} {kind}, and the manifest "
                    f"says {buffer.numel()} FLOAT; compile the artifact again"
                )
            self._context.set_tensor_address(name, buffer.data_ptr())

    def _buffers(self) -> dict[str, Any]:
        """Each tensor of the plan's and its buffer: by direction, and several outputs by name.

        A plan may name its tensors as it likes, as torch-tensorrt's do; then the outputs are those of the manifest in
        the plan's order, which is that in which they were marked.
        """
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        given = [name for name in names if self._engine.get_tensor_mode(name).name == "INPUT"]
        made = [name for name in names if name not in given]
        wanted = [spec.name for spec in self.artifact.manifest.outputs]
        if len(given) != 1 or len(made) != len(wanted):
            raise ArtifactError(
                f"{self.artifact.payload / PLAN_FILE} has the inputs {given} and the outputs {made}, and the manifest "
                f"one input and {len(wanted)} outputs; compile the artifact again"
            )
        order = wanted if set(made) == set(wanted) else made
        return {given[0]: self._device_in, **dict(zip(order, self._device_out, strict=True))}

    def _enqueue(self) -> None:
        self._device_in.copy_(self._host_in, non_blocking=True)
        self._execute()
        for pinned, made in zip(self._host_out, self._device_out, strict=True):
            pinned.copy_(made, non_blocking=True)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise ArtifactError(f"TensorRT could not run {self.artifact.payload / PLAN_FILE}; compile it again")

    def _prepare(self) -> None:
        """Run until nothing is allocated any more, then capture."""
        import torch

        self._host_in.zero_()
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                self._enqueue()
        self._stream.synchronize()
        if not _capturable(self._context, self._stream.cuda_stream):
            return
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue()
        self._graph = graph


def _capturable(context: Any, stream: int) -> bool:
    """TensorRT for RTX says whether it can be captured now; TensorRT has no such question and can."""
    question = getattr(context, "is_stream_capturable", None)
    return True if question is None else bool(question(stream))


def load(artifact: Artifact, threads: int) -> Engine:
    """Load the plan; the thread count is of no use to a GPU.

    Raises:
        ArtifactError: TensorRT or torch is missing or of another version than the plan's, or there is no such GPU here.
    """
    info = read_info(artifact.payload)
    library = require(info)
    check_gpu(info)
    messages: list[str] = []
    trt = library.module
    logger = _logger(trt, messages)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(artifact.read(f"payload/{PLAN_FILE}").tobytes())
    context = engine.create_execution_context() if engine is not None else None
    if context is None:
        said = messages[-1] if messages else "it says nothing of why"
        raise ArtifactError(
            f"{library.title} cannot load {artifact.payload / PLAN_FILE}: {said}; compile the artifact again"
        )
    return TensorRtEngine(artifact, threads, engine, context, (logger, runtime))


def check_gpu(info: PlanInfo) -> None:
    """Raise ``ArtifactError`` unless the GPU here is of the architecture that a plan was built for.

    Another model of the same architecture runs it with kernels that were chosen for the first, which is warned of.
    """
    try:
        import torch
    except ImportError:
        raise ArtifactError(
            f"torch is not installed, which allocates the memory that {TITLES[info.library]} runs in: pip install torch"
        ) from None
    if not torch.cuda.is_available():
        raise ArtifactError(f"this artifact needs an NVIDIA GPU ({info.architecture}), and torch finds none here")
    here = "sm_{}{}".format(*torch.cuda.get_device_capability())
    name = torch.cuda.get_device_name()
    if here != info.architecture:
        raise ArtifactError(
            f"this artifact was built for {info.architecture}{f' ({info.gpu})' if info.gpu else ''}, the GPU here is "
            f"{here} ({name}); compile it for this one: --arch {here}"
        )
    if info.gpu and info.gpu != name:
        warnings.warn(f"this plan was tuned on {info.gpu} and runs on {name}; compile it here to be fast", stacklevel=2)


def _logger(trt: Any, messages: list[str]) -> Any:
    """Keeps warnings and errors, for the message that says why a plan cannot be loaded."""

    class Keeper(trt.ILogger):  # type: ignore[misc]  # the base class is known when TensorRT is loaded
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR"):
                messages.append(message.strip())

    return Keeper()
