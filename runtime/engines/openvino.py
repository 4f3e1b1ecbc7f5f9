"""Runs ``payload/model.onnx``, which the onnxruntime backend wrote, with OpenVINO on the CPU. A yardstick."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.engine import Engine
from runtime.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from runtime.artifact import Artifact


class OpenVinoEngine(Engine):
    """One compiled model with one infer request."""

    def __init__(self, artifact: Artifact, threads: int, request: Any) -> None:
        super().__init__(artifact, threads)
        self._request = request

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """See ``Engine.run``."""
        # shared: both tensors are read in place, and the one result that is handed out is a copy
        result = self._request.infer([self.checked_input(inputs)], share_inputs=True, share_outputs=True)
        return {self.artifact.manifest.output.name: np.array(result[0])}


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
