"""Runs ``payload/model.onnx`` with ONNX Runtime's CPU provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.engine import Engine
from runtime.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runtime.artifact import Artifact


class OnnxRuntimeEngine(Engine):
    """One ONNX Runtime session with all graph optimisations on."""

    def __init__(self, artifact: Artifact, threads: int, session: Any) -> None:
        super().__init__(artifact, threads)
        self._session = session

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """See ``Engine.run``."""
        name = self.artifact.manifest.input.name
        output = self.artifact.manifest.output.name
        (result,) = self._session.run([output], {name: self.checked_input(inputs)})
        return {output: result}


def load(artifact: Artifact, threads: int) -> Engine:
    """Create the session; raises ``ArtifactError`` where ONNX Runtime refuses the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    path = artifact.payload / "model.onnx"
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each status code
        raise ArtifactError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}") from error
    return OnnxRuntimeEngine(artifact, threads, session)
