"""Which positions of a weight may be non-zero together: any, N of every M inputs, blocks of outputs, whole channels.

The pruning unit of a pattern is a group of weights that are kept or dropped together, and a group's score is the mean
magnitude of its weights. ``N:M`` is the exception: its unit is one weight, and its groups only set the threshold.
"""

from __future__ import annotations

import functools
import re

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import UserError

UNSTRUCTURED = "unstructured"
CHANNEL = "channel"
KINDS = (UNSTRUCTURED, "N:M", "1xN", CHANNEL)
"""What a method can name as the patterns that it takes."""

_NETWORK_LIMIT = 32  # groups of more weights are sorted: the selection network would have too many steps


class Pattern(msgspec.Struct, frozen=True):
    """A pattern by its ``kind``, one of ``KINDS``.

    Attributes:
        kind: the family.
        kept: the N of ``N:M``: at most so many non-zeros in ``size`` consecutive input channels.
        size: the M of ``N:M``; the N of ``1xN``: so many consecutive output channels share a tap.
    """

    kind: str
    kept: int = 0
    size: int = 1

    @property
    def sparsity(self) -> float | None:
        """Fraction of zeros, where the pattern fixes it."""
        return 1 - self.kept / self.size if self.kind == "N:M" else None

    @property
    def grouped(self) -> bool:
        """Whether several weights are kept or dropped together."""
        return self.kind in ("1xN", CHANNEL)


def parse_pattern(text: str) -> Pattern:
    """Read a pattern's name.

    Raises:
        UserError: it is none of ``unstructured``, ``N:M`` with 0 < N < M, ``1xN`` with N > 1, ``channel``.
    """
    if text in (UNSTRUCTURED, CHANNEL):
        return Pattern(text)
    match = re.fullmatch(r"(\d{1,4})(:|x)(\d{1,4})", text)
    if match is not None:
        first, second = int(match[1]), int(match[3])
        if match[2] == ":" and 0 < first < second:
            return Pattern("N:M", first, second)
        if match[2] == "x" and first == 1 and second > 1:
            return Pattern("1xN", 0, second)
    raise UserError(
        f"unknown pattern {text!r}; choose {UNSTRUCTURED}, N:M with 0 < N < M (2:4), 1xN with N > 1 (1x4: blocks of 4 "
        f"output channels), or {CHANNEL} (whole output channels)"
    )


TWO_OF_FOUR = parse_pattern("2:4")
"""What sparse tensor cores take."""


def reject(shape: tuple[int, ...], pattern: Pattern) -> str:
    """Why a weight of this shape ``(N, K, ...)`` cannot take the pattern; empty if it can.

    Blocks and channels fit every shape: the last block is shorter where N is no multiple of its size.
    """
    if pattern.kind != "N:M" or shape[1] % pattern.size == 0:
        return ""
    channels = "1 input channel" if shape[1] == 1 else f"{shape[1]} input channels"
    return f"{channels} cannot be divided into groups of {pattern.size}"


def score(weight_NKRS: Tensor, pattern: Pattern) -> Tensor:
    """Mean magnitude of each weight's group, ready to be compared with a threshold.

    Returns:
        Shape of the weight, or ``(N, 1, ...)`` for whole channels.
    """
    magnitude = weight_NKRS.abs()
    if pattern.kind == CHANNEL:
        return magnitude.mean(tuple(range(1, magnitude.dim())), keepdim=True)
    if pattern.kind == "1xN":
        return _block_means(magnitude, pattern.size)
    return magnitude


def limits_shape(shape: tuple[int, ...], pattern: Pattern) -> tuple[int, ...]:
    """Shape of a layer's threshold: one scalar, or ``(N, K / M, 1, R, S)`` for ``N:M``."""
    if pattern.kind != "N:M":
        return ()
    return (shape[0], shape[1] // pattern.size, 1, *shape[2:])


def group_limit(weight_NKRS: Tensor, pattern: Pattern) -> Tensor:
    """The (N+1)-th largest magnitude of each group of M, so that at most N weights lie above it.

    For 2:4 this is S-STE's threshold (Hu et al., NeurIPS 2024, section 4): the second-smallest of four.

    Args:
        weight_NKRS: ``(N, K, R, S)`` or ``(N, K)`` with K a multiple of M.
        pattern: of the kind ``N:M``.

    Returns:
        ``(N, K / M, 1, R, S)``.
    """
    members = _grouped(weight_NKRS.abs(), pattern)
    rank = pattern.size - pattern.kept  # from 1, of the smallest
    if pattern.size > _NETWORK_LIMIT:
        return members.sort(dim=2).values[:, :, rank - 1 : rank]
    return _kth_smallest(list(members.unbind(2)), rank).unsqueeze(2)


def spread(limit: Tensor, shape: tuple[int, ...], pattern: Pattern) -> Tensor:
    """A layer's threshold, ready to be compared with its score: a view of what ``group_limit`` gives, or itself."""
    if pattern.kind != "N:M":
        return limit
    return limit.expand(shape[0], shape[1] // pattern.size, pattern.size, *shape[2:]).reshape(shape)


def obeys(weight_NKRS: Tensor, pattern: Pattern) -> bool:
    """Whether the zeros are where the pattern wants them: no group too full, every block or channel whole."""
    nonzero = weight_NKRS != 0
    if pattern.kind == "N:M":
        return bool(torch.all(_grouped(nonzero, pattern).sum(dim=2) <= pattern.kept))
    if not pattern.grouped:
        return True
    share = score(nonzero.float(), pattern)
    return bool(torch.all((share == 0) | (share == 1)))


def _grouped(weight_NKRS: Tensor, pattern: Pattern) -> Tensor:
    """``(N, K / M, M, R, S)``."""
    count, channels, *rest = weight_NKRS.shape
    return weight_NKRS.reshape(count, channels // pattern.size, pattern.size, *rest)


def _block_means(magnitude: Tensor, size: int) -> Tensor:
    count = len(magnitude)
    blocks = -(-count // size)
    padded = F.pad(magnitude, [0] * (2 * magnitude.dim() - 1) + [blocks * size - count])
    grouped = padded.reshape(blocks, size, *magnitude.shape[1:])
    sums = grouped.sum(1, keepdim=True)
    means = sums / size
    if blocks * size != count:
        # the last block holds fewer channels than it has places
        last = count - (blocks - 1) * size
        means = torch.cat([means[:-1], sums[-1:] / last])
    return means.expand_as(grouped).flatten(0, 1)[:count]


def _kth_smallest(values: list[Tensor], rank: int) -> Tensor:
    """Elementwise order statistic by partial bubble sort: few passes over memory, where a sort of tiny rows is slow.

    Args:
        values: tensors of one shape; the list is used up.
        rank: from 1.
    """
    from_top = len(values) - rank + 1
    lower, upper = (torch.minimum, torch.maximum) if rank <= from_top else (torch.maximum, torch.minimum)
    for _ in range(min(rank, from_top) - 1):
        best, *rest = values
        values = []
        for value in rest:
            values.append(upper(best, value))
            best = lower(best, value)
    return functools.reduce(lower, values)
