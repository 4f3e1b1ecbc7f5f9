"""Runs ``payload/model.onnx``, which the onnxruntime backend wrote, with OpenVINO on the CPU. A yardstick."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from runtime.engine import Engine
from runtime.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runtime.artifact import Artifact


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
    """Compile the model; raises ``ArtifactError`` where OpenVINO is missing or refuses the model."""
    try:
        import openvino
    except ImportError as error:
        raise ArtifactError("openvino is not installed: pip install openvino") from error
    path = artifact.payload / "model.onnx"
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        # the process is bound to its CPUs already, and OpenVINO would choose among all of the machine's
        "ENABLE_CPU_PINNING": "NO",
        # else it computes in bfloat16 where the processor can
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    except Exception as error:  # OpenVINO raises a RuntimeError of many lines for whatever failed inside it
        raise ArtifactError(f"OpenVINO {openvino.__version__} cannot load {path}: {error}") from error
    return OpenVinoEngine(artifact, threads, request)
