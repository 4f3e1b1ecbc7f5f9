"""Any number of pictures, cut into the batch sizes that an artifact was compiled for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    """Outputs of any number of pictures through any engine; one of a fixed batch size runs as often as it takes."""
    spec, output = engine.artifact.manifest.input, engine.artifact.manifest.output
    if engine.any_batch_size:
        return engine.run({spec.name: pictures})[output.name]
    size = spec.shape[0]
    result = np.empty((len(pictures), *output.shape[1:]), np.float32)
    for start in range(0, len(pictures), size):
        batch = pictures[start : start + size]
        whole = batch if len(batch) == size else padded(batch, size)
        result[start : start + size] = engine.run({spec.name: whole})[output.name][: len(batch)]
    return result
