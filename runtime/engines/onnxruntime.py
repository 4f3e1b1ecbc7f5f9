"""Runs ``payload/model.onnx`` with ONNX Runtime's CPU provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from runtime.engine import Engine
from runtime.errors import ArtifactError
from runtime.onnx_guard import refuse_outside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from runtime.artifact import Artifact


@final
class OnnxRuntimeEngine(Engine):
    """One ONNX Runtime session with all graph optimisations on."""

    def __init__(self, artifact: Artifact, threads: int, session: Any) -> None:
        super().__init__(artifact, threads)
        self._session = session

    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        """Bound to the arrays, so that the session reads the one and writes the others in place."""
        manifest = self.artifact.manifest
        binding = self._session.io_binding()
        try:
            for bind, name, array in (
                (binding.bind_input, manifest.input.name, given),
                *((binding.bind_output, spec.name, out) for spec, out in zip(manifest.outputs, results, strict=True)),
            ):
                bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime raises a class of its own for each status code
            raise ArtifactError(
                f"ONNX Runtime cannot run {self.artifact.payload / 'model.onnx'} as its manifest describes it: {error}"
            ) from error


def load(artifact: Artifact, threads: int) -> Engine:
    """Create the session; raises ``ArtifactError`` where ONNX Runtime refuses the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    path = artifact.payload / "model.onnx"
    content = artifact.read("payload/model.onnx")
    refuse_outside(path, content.data)
    try:
        model = content.tobytes()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each status code
        raise ArtifactError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}") from error
    return OnnxRuntimeEngine(artifact, threads, session)
