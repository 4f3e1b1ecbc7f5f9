"""Which positions of a weight may be non-zero: anywhere (unstructured), or N of every M input channels."""

from __future__ import annotations

import re

import msgspec
import torch
from torch import Tensor

from runtime.errors import UserError

UNSTRUCTURED = "unstructured"


class Groups(msgspec.Struct, frozen=True):
    """The pattern N:M: at most ``kept`` non-zeros in ``size`` consecutive weights along the input channels."""

    kept: int
    size: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return 1 - self.kept / self.size


def parse_pattern(text: str) -> Groups | None:
    """Read a pattern's name; ``None`` stands for unstructured.

    Raises:
        UserError: it is neither ``unstructured`` nor ``N:M`` with 0 < N < M.
    """
    if text == UNSTRUCTURED:
        return None
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    if match is None or not 0 < int(match[1]) < int(match[2]):
        raise UserError(f"unknown pattern {text!r}; choose {UNSTRUCTURED} or N:M with 0 < N < M, for instance 2:4")
    return Groups(int(match[1]), int(match[2]))


def reject(shape: tuple[int, ...], groups: Groups | None) -> str:
    """Why a weight of this shape ``(N, K, ...)`` cannot take the pattern; empty if it can."""
    if groups is None or shape[1] % groups.size == 0:
        return ""
    channels = "1 input channel" if shape[1] == 1 else f"{shape[1]} input channels"
    return f"{channels} cannot be divided into groups of {groups.size}"


def group_threshold(weight_NKRS: Tensor, groups: Groups) -> Tensor:
    """The (N+1)-th largest magnitude of each group, so that at most N weights lie above it.

    For 2:4 this is S-STE's threshold (Hu et al., NeurIPS 2024, section 4): the second-smallest of four.

    Args:
        weight_NKRS: ``(N, K, R, S)`` or ``(N, K)`` with K a multiple of ``groups.size``.
        groups: the pattern.

    Returns:
        Shape of the weight; all members of a group hold the group's threshold.
    """
    grouped = _grouped(weight_NKRS.abs(), groups)
    limit: Tensor = grouped.kthvalue(groups.size - groups.kept, dim=2, keepdim=True).values
    return limit.expand_as(grouped).flatten(1, 2)


def obeys(weight_NKRS: Tensor, groups: Groups | None) -> bool:
    """Whether no group holds more non-zeros than the pattern allows."""
    if groups is None:
        return True
    nonzeros = _grouped(weight_NKRS != 0, groups).sum(dim=2)
    return bool(torch.all(nonzeros <= groups.kept))


def _grouped(weight_NKRS: Tensor, groups: Groups) -> Tensor:
    """``(N, K / M, M, R, S)``."""
    count, channels, *rest = weight_NKRS.shape
    return weight_NKRS.reshape(count, channels // groups.size, groups.size, *rest)
