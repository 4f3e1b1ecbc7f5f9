"""Runs ``payload/model.onnx``, which the onnxruntime backend wrote, with OpenVINO on the CPU. A yardstick."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, final

from runtime.engine import Engine
from runtime.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runtime.artifact import Artifact

# what a target's dtype asks for where the file itself is not quantised
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_NAMES = {hint: name for name, hint in _HINTS.items()} | {"u8": "int8", "i8": "int8"}
# the layers of its plan that multiply, by the names that it gives them there
_MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention")


@final
class OpenVinoEngine(Engine):
    """One compiled model with one infer request."""

    def __init__(self, artifact: Artifact, threads: int, request: Any) -> None:
        super().__init__(artifact, threads)
        self._request = request

    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        """The input is read in place; the answers, which OpenVINO keeps in memory of its own, are copied once."""
        answers = self._request.infer([given], share_inputs=True, share_outputs=True)
        for index, result in enumerate(results):  # in the file's order, as the manifest has them
            result[...] = answers[index]


def load(artifact: Artifact, threads: int) -> Engine:
    """Compile the model to compute in the target's dtype.

    Raises:
        ArtifactError: OpenVINO is missing, refuses the model, or computes none of its layers in that dtype here.
    """
    path = artifact.payload / "model.onnx"
    dtype = artifact.manifest.target.dtype
    compiled = _compile(path, dtype, threads)
    ran = {} if dtype == "float32" else _computed_in(compiled)
    if ran and dtype.partition("+")[0] not in ran:
        raise ArtifactError(
            f"OpenVINO computes no layer of {path.name} in {dtype} on this processor, but in {', '.join(ran)}"
        )
    return OpenVinoEngine(artifact, threads, compiled.create_infer_request())


def computed_in(path: Path, dtype: str, threads: int = 1) -> dict[str, int]:
    """How many of a file's layers that multiply OpenVINO computes in which precision, asked to compute in ``dtype``.

    It falls back in silence where the processor lacks the instructions, so this is read from its own plan.

    Raises:
        ArtifactError: as for ``load``.
    """
    return _computed_in(_compile(path, dtype, threads))


def _compile(path: Path, dtype: str, threads: int) -> Any:
    """``dtype`` is ``int8`` or ``int8+bfloat16`` for a file that is quantised: the rest is computed in what follows."""
    try:
        import openvino
    except ImportError as error:
        raise ArtifactError("openvino is not installed: pip install openvino") from error
    hint = _HINTS.get("float32" if dtype == "int8" else dtype.rpartition("+")[2])
    if hint is None:
        raise ArtifactError(f"OpenVINO does not compute in {dtype} on a CPU; it does in {', '.join(_HINTS)}")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        # the process is bound to its CPUs already, and OpenVINO would choose among all of the machine's
        "ENABLE_CPU_PINNING": "NO",
        # without it it computes in bfloat16 where the processor can
        "INFERENCE_PRECISION_HINT": hint,
    }
    try:
        return openvino.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:  # OpenVINO raises a RuntimeError of many lines for whatever failed inside it
        message = " ".join(str(error).split())
        raise ArtifactError(f"OpenVINO {openvino.__version__} cannot load {path}: {message}") from error


def _computed_in(compiled: Any) -> dict[str, int]:
    """By precision the number of layers that multiply, most first."""
    found: Counter[str] = Counter()
    for layer in compiled.get_runtime_model().get_ordered_ops():
        facts = layer.get_rt_info()
        if facts["layerType"].astype(str) in _MULTIPLYING:
            precision = facts["runtimePrecision"].astype(str)
            found[_NAMES.get(precision, precision)] += 1
    return dict(found.most_common())
