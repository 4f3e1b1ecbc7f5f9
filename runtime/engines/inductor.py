"""Runs ``payload/model.pt2``, a package that AOTInductor compiled ahead of time, with torch."""

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


class InductorEngine(Engine):
    """One AOTInductor package; torch is only its tensor library, nothing is compiled here."""

    def __init__(self, artifact: Artifact, threads: int, package: Any) -> None:
        super().__init__(artifact, threads)
        self._package = package

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """See ``Engine.run``."""
        import torch

        with torch.inference_mode():
            result = self._package(torch.from_numpy(self.checked_input(inputs)))
        tensor = result[0] if isinstance(result, (list, tuple)) else result
        # a copy: the package may hand out a buffer that its next call overwrites
        return {self.artifact.manifest.output.name: tensor.numpy().copy()}


def load(artifact: Artifact, threads: int) -> Engine:
    """Load the package; the thread count is torch's own and so holds for the whole process."""
    import torch

    torch.set_num_threads(threads)
    path = artifact.payload / "model.pt2"
    try:
        package = torch._inductor.aoti_load_package(str(path))
    except Exception as error:  # the loader raises whatever the C++ side threw
        raise ArtifactError(f"torch {torch.__version__} cannot load {path}: {error}") from error
    return InductorEngine(artifact, threads, package)
