"""Any number of pictures, cut into the batch sizes that an artifact was compiled for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runtime.engine import Engine


def pieces(pictures: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """``(batch size, pictures in it)`` of each run that ``pictures`` take, the largest batches first.

    What is left below the smallest of ``sizes`` becomes one run of that size which is not full; all others are.
    """
    found = []
    left = pictures
    for size in sorted(sizes, reverse=True):
        found += [(size, size)] * (left // size)
        left %= size
    return [*found, (min(sizes), left)] if left else found


def padded(batch: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The pictures ``(B, C, H, W)``, filled up with zeros to ``size`` of them."""
    full = np.zeros((size, *batch.shape[1:]), np.float32)
    full[: len(batch)] = batch
    return full


def run_all(engine: Engine, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """The one output for any number of pictures through any engine; ``run_outputs`` is for those that have several.

    Raises:
        UserError: the artifact has several outputs, or as for ``Engine.run``.
    """
    outputs = engine.artifact.manifest.outputs
    if len(outputs) > 1:
        names = ", ".join(repr(spec.name) for spec in outputs)
        raise UserError(f"{engine.artifact.manifest.name} has several outputs ({names}): call run_outputs")
    return run_outputs(engine, pictures)[outputs[0].name]


def run_outputs(engine: Engine, pictures: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """All outputs by name for any number of pictures; an engine of a fixed batch size runs as often as it takes."""
    spec = engine.artifact.manifest.input
    if engine.any_batch_size or len(pictures) == spec.shape[0]:
        return engine.run({spec.name: pictures})
    size = spec.shape[0]
    results = {
        out.name: np.empty((len(pictures), *out.shape[1:]), np.float32) for out in engine.artifact.manifest.outputs
    }
    for start in range(0, len(pictures), size):
        batch = pictures[start : start + size]
        whole = batch if len(batch) == size else padded(batch, size)
        for name, answer in engine.run({spec.name: whole}).items():
            results[name][start : start + size] = answer[: len(batch)]
    return results
