"""Replays an artifact's golden inputs and compares the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from runtime.artifact import GOLDEN_INPUTS, golden_output
from runtime.errors import ArtifactError
from runtime.npy import parse_npy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.engine import Engine


class OutputCheck(msgspec.Struct, frozen=True):
    """``error`` is ``max|y - golden| / max|golden|`` of one output; of several batch sizes the worst."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether it is within the manifest's tolerance; a NaN compares false and so is not."""
        return self.error <= self.tolerance


class CheckResult(msgspec.Struct, frozen=True):
    """``error`` and ``tolerance`` are those of the output that comes nearest to its tolerance, or passes it.

    ``passed`` if all ``outputs`` are within theirs.
    """

    artifact: str
    engine: str
    threads: int
    error: float
    tolerance: float
    passed: bool
    outputs: tuple[OutputCheck, ...]


def replay(engine: Engine) -> CheckResult:
    """Run the golden inputs, as one batch of each size that the artifact was built for: the first so many of them.

    Raises:
        ArtifactError: the golden files cannot be read.
    """
    manifest = engine.artifact.manifest
    inputs = _golden(engine, GOLDEN_INPUTS)
    results = [engine.run({manifest.input.name: inputs[:size]}) for size in manifest.target.sizes]
    outputs = []
    for index, (spec, tolerance) in enumerate(zip(manifest.outputs, manifest.tolerances, strict=True)):
        expected = _golden(engine, golden_output(index))
        error = _error([result[spec.name] for result in results], expected)
        outputs.append(OutputCheck(spec.name, error, tolerance))
    worst = max(outputs, key=lambda output: (not output.passed, output.error / (output.tolerance or 1.0)))
    return CheckResult(
        artifact=manifest.name,
        engine=manifest.engine,
        threads=engine.threads,
        error=worst.error,
        tolerance=worst.tolerance,
        passed=worst.passed,
        outputs=tuple(outputs),
    )


def _error(results: list[NDArray[np.float32]], expected: NDArray[np.float32]) -> float:
    """Of several runs of the first rows the largest difference, relative to the largest number that was expected."""
    largest = float(np.abs(expected).max()) or 1.0
    errors = [float(np.abs(result - expected[: len(result)]).max()) / largest for result in results]
    return float(np.max(errors))  # of a NaN and a number it is the NaN


def _golden(engine: Engine, name: str) -> NDArray[np.float32]:
    try:
        array = parse_npy(engine.artifact.read(name))
    except ValueError as error:
        path = engine.artifact.folder / name
        raise ArtifactError(f"{path} cannot be read ({error}); copy or compile the artifact again") from error
    return np.require(array, requirements="C")
