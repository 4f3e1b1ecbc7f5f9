"""Compressed rows: how the unstructured formats keep a weight before a configuration decides where its values go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Buffers = dict[str, Tensor]


def compress(weight: Tensor) -> Buffers:
    """``values`` ``(n,)``, ``columns`` ``(n,)`` int32 in ``C*R*S``, ``rows`` ``(N + 1,)`` int32 where they begin.

    Only zeros are dropped, and of those not -0.0: it comes back as it was.
    """
    flat = weight.reshape(len(weight), -1)
    kept = (flat != 0) | torch.signbit(flat)
    counts = kept.sum(dim=1)
    rows = torch.zeros(len(weight) + 1, dtype=torch.int32)
    rows[1:] = counts.cumsum(0)
    return {"values": flat[kept], "columns": kept.nonzero()[:, 1].to(torch.int32), "rows": rows}


def expand(buffers: Buffers, shape: Sequence[int]) -> Tensor:
    """The weight of that shape that was compressed."""
    weight = torch.zeros(shape[0], int(np.prod(shape[1:], dtype=np.int64)), dtype=buffers["values"].dtype)
    weight[row_numbers(buffers), buffers["columns"].long()] = buffers["values"]
    return weight.reshape(tuple(shape))


def row_numbers(buffers: Buffers) -> Tensor:
    """The output channel of each value, ``(n,)`` int64."""
    rows = buffers["rows"].long()
    return torch.repeat_interleave(torch.arange(len(rows) - 1), rows.diff())


def places(buffers: Buffers, kernel: tuple[int, int]) -> tuple[NDArray[np.int64], ...]:
    """Output channel, input channel, ``r`` and ``s`` of each value."""
    columns = buffers["columns"].numpy().astype(np.int64)
    taps = kernel[0] * kernel[1]
    return row_numbers(buffers).numpy(), columns // taps, columns % taps // kernel[1], columns % kernel[1]
