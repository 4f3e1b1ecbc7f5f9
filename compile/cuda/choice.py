"""What was chosen for a layer, and the module that it becomes."""

from __future__ import annotations

from typing import Any, final

import msgspec
import torch.nn.functional as F
from torch import Tensor, nn

from compile.cuda.format import DENSE, find_format
from compile.cuda.formats.dense import ACTIVATIONS
from compile.cuda.problem import ConvProblem
from compile.cuda.sites import Site


class Candidate(msgspec.Struct, frozen=True):
    """A format's kernel for a problem. ``problem`` may lack the layer's activation and residual, which then follow."""

    format: str
    config: Any
    problem: ConvProblem

    def describe(self) -> str:
        """``semi_structured 128 64``: the format and the numbers of its configuration."""
        numbers = msgspec.to_builtins(self.config)
        return " ".join([self.format, *(str(value) for value in numbers.values())])


class Choice(msgspec.Struct, frozen=True):
    """What a layer gets and why; times are microseconds of the whole batch, ``None`` where nothing was measured."""

    candidate: Candidate
    reason: str
    dense: Candidate
    dense_us: float | None = None
    chosen_us: float | None = None
    macs_usable: int | None = None

    @property
    def is_dense(self) -> bool:
        """Whether it is the baseline."""
        return self.candidate.format == DENSE

    def as_dense(self, reason: str) -> Choice:
        """The baseline instead, for a reason that is put before the old one."""
        return msgspec.structs.replace(
            self, candidate=self.dense, reason=f"{reason}; {self.reason}", chosen_us=self.dense_us, macs_usable=None
        )


@final
class Placed(nn.Module):
    """A layer at its place: what comes before the op, the op, and what the op does not do itself.

    ``forward(x, residual, factor)`` is ``activation(conv(x) + bias + residual) * factor``.
    """

    def __init__(self, site: Site, inner: nn.Module, problem: ConvProblem) -> None:
        super().__init__()
        self.inner = inner
        self.pad, self.flatten = site.pad, site.flatten
        self.adds = problem.residual  # inside the op
        self.activation = "identity" if problem.activation == site.problem.activation else site.problem.activation

    def forward(self, x: Tensor, residual: Tensor | None = None, factor: Tensor | None = None) -> Tensor:
        """See the class."""
        if any(self.pad):
            top, left, bottom, right = self.pad
            x = F.pad(x, (left, right, top, bottom))
        if self.flatten:
            x = x.permute(0, 2, 3, 1).flatten(1)[:, :, None, None]
        y: Tensor = self.inner(x, residual) if residual is not None and self.adds else self.inner(x)
        if residual is not None and not self.adds:
            y = y + residual
        y = ACTIVATIONS[self.activation](y)
        return y if factor is None else y * factor


def place(site: Site, candidate: Candidate) -> Placed:
    """The module of a layer, on the CPU."""
    form = find_format(candidate.format)
    buffers = form.pack(site.rounded)
    return Placed(site, form.module(buffers, site.bias, candidate.problem, candidate.config), candidate.problem)
