"""float32 weights in fp16: exact +0.0 zeros, and what was too small or too large for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError

LARGEST = float(np.finfo(np.float16).max)


def as_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """The nearest fp16 numbers; a zero of either sign is +0.0, which is the one that a builder takes for sparse.

    Raises:
        UserError: a value is beyond fp16's largest, 65504.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= LARGEST:
        raise UserError(
            f"a folded weight or bias of {largest:g} does not fit fp16, whose largest number is {LARGEST:g}; "
            f"use a backend that computes in float32, or look at the batch normalisation with a variance near zero"
        )
    half = values.astype(np.float16)
    half[half == 0] = 0.0
    return half


def underflows(weight: NDArray[np.float32]) -> int:
    """How many non-zero weights become zero in fp16 (below about 3e-8)."""
    return int(np.count_nonzero(weight)) - int(np.count_nonzero(weight.astype(np.float16)))
