"""The sparsity plan: how many zeros, in which pattern, and when."""

from __future__ import annotations

import fnmatch

import msgspec

from runtime.errors import UserError
from st3.patterns import parse_pattern
from st3.schedules import cubic


class SparsityPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a method is asked for.

    Attributes:
        sparsity: fraction of zeros at the end, in [0, 1). An N:M pattern fixes it (2:4 is 0.5), so it may be left out.
        pattern: ``unstructured``, or ``N:M``: at most N non-zeros in M consecutive input channels.
        scope: over what the threshold of an unstructured pattern is taken; ``global``: all prunable weights together.
            An N:M threshold is by nature taken per group.
        begin: progress in [0, 1] at which the sparsity leaves zero.
        end: progress in [0, 1] from which it is complete.
        exempt: layer names that stay dense; shell wildcards allowed. None by default.

    Raises:
        UserError: a value is out of its range, or the sparsity contradicts the pattern.
    """

    sparsity: float | None = None
    pattern: str = "unstructured"
    scope: str | dict[str, float] = "global"
    begin: float = 0.0
    end: float = 0.5
    exempt: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        groups = parse_pattern(self.pattern)
        if self.sparsity is None and groups is None:
            raise UserError("an unstructured plan needs a sparsity, the fraction of zeros in [0, 1), for instance 0.9")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UserError(f"sparsity is a fraction of zeros in [0, 1), got {self.sparsity}; 90 % is 0.9")
        if groups is not None and self.sparsity is not None and abs(self.sparsity - groups.sparsity) > 1e-6:
            raise UserError(
                f"the pattern {self.pattern} has sparsity {groups.sparsity:g}, got {self.sparsity:g}; "
                f"leave the sparsity out or choose another pattern"
            )
        if self.scope != "global":
            raise UserError(f"unknown scope {self.scope!r}; choose one of global")
        if not 0 <= self.begin <= self.end <= 1:
            raise UserError(f"a plan needs 0 <= begin <= end <= 1, got begin {self.begin}, end {self.end}")

    @property
    def target(self) -> float:
        """Fraction of zeros that the plan ends with (in the layers that take the pattern)."""
        groups = parse_pattern(self.pattern)
        if groups is not None:
            return groups.sparsity
        assert self.sparsity is not None
        return self.sparsity

    def ramp(self, progress: float) -> float:
        """How far the sparsity has come, from 0 to 1, at this progress of the training in [0, 1]."""
        return cubic(progress, self.begin, self.end)

    def exempts(self, name: str) -> bool:
        """Whether the layer of this name stays dense."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exempt)
