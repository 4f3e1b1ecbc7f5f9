"""The model of Triton's Python backend: an artifact that lies beside it, run by this runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from runtime.cuts import cheapest_cut, run_rows, warm
from runtime.engine import load

if TYPE_CHECKING:
    from collections.abc import Sequence

ARTIFACT_FOLDER = "artifact"


@final
class TritonPythonModel:
    """What Triton calls; one instance has one engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the artifact, which must have the digest that the configuration names, and warm it."""
        settings = json.loads(args["model_config"])["parameters"]
        version = Path(args["model_repository"]) / args["model_version"]
        self._engine = load(
            version / ARTIFACT_FOLDER,
            threads=int(settings["st3_threads"]["string_value"]),
            require_digest=settings["st3_digest"]["string_value"],
        )
        manifest = self._engine.artifact.manifest
        self._input, self._outputs = manifest.input.name, [spec.name for spec in manifest.outputs]
        self._run_ms = warm(self._engine)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer all requests of a batch, which run together; Triton drops the outputs that nobody asked for."""
        import triton_python_backend_utils as backend

        rows = [backend.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        together = rows[0] if len(rows) == 1 else np.concatenate(rows)
        outputs = run_rows(self._engine, cheapest_cut(len(together), self._run_ms), together)
        ends = np.cumsum([len(part) for part in rows])[:-1]
        answers = zip(*(np.split(output, ends) for output in outputs), strict=True)
        return [backend.InferenceResponse(list(map(backend.Tensor, self._outputs, answer))) for answer in answers]

    def finalize(self) -> None:
        """Free the engine."""
        self._engine.close()
