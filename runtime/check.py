"""Replays an artifact's golden inputs and compares the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from runtime.errors import ArtifactError
from runtime.npy import parse_npy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.engine import Engine


class CheckResult(msgspec.Struct, frozen=True):
    """``error`` is ``max|y - golden| / max|golden|``; ``passed`` if it is within the manifest's tolerance.

    Of the batch sizes that an artifact was built for, the worst.
    """

    artifact: str
    engine: str
    threads: int
    error: float
    tolerance: float
    passed: bool


def replay(engine: Engine) -> CheckResult:
    """Run the golden inputs, as one batch of each size that the artifact was built for: the first so many of them.

    Raises:
        ArtifactError: the golden files cannot be read.
    """
    manifest = engine.artifact.manifest
    inputs = _golden(engine, "golden/inputs.npy")
    expected = _golden(engine, "golden/outputs.npy")
    largest = float(np.abs(expected).max()) or 1.0
    errors = []
    for size in manifest.target.sizes:
        result = engine.run({manifest.input.name: inputs[:size]})[manifest.output.name]
        errors.append(float(np.abs(result - expected[:size]).max()) / largest)
    deviation = float(np.max(errors))  # of a NaN and a number it is the NaN
    return CheckResult(
        artifact=manifest.name,
        engine=manifest.engine,
        threads=engine.threads,
        error=deviation,
        tolerance=manifest.tolerance.relative,
        # a NaN compares false and so fails
        passed=deviation <= manifest.tolerance.relative,
    )


def _golden(engine: Engine, name: str) -> NDArray[np.float32]:
    try:
        array = parse_npy(engine.artifact.read(name))
    except ValueError as error:
        path = engine.artifact.folder / name
        raise ArtifactError(f"{path} cannot be read ({error}); copy or compile the artifact again") from error
    return np.require(array, requirements="C")
