"""The sparsity plan: how many zeros, in which pattern, where, and when."""

from __future__ import annotations

import msgspec

from runtime.errors import UserError
from st3 import scopes
from st3.patterns import Pattern, parse_pattern
from st3.schedules import cubic


class SparsityPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a method is asked for.

    Attributes:
        sparsity: fraction of zeros at the end, in [0, 1). An N:M pattern fixes it (2:4 is 0.5), so it may be left out.
        pattern: ``unstructured``; ``N:M``: at most N non-zeros in M consecutive input channels; ``1xN``: blocks of N
            consecutive output channels that share a tap; ``channel``: whole output channels, of an attention's packed
            projection (``in_proj``) each channel of the queries, the keys and the values for itself.
        scope: how the zeros are shared out among the layers. ``global``: one threshold over all prunable weights;
            ``uniform``: each layer alike; ``erk``: Erdos-Renyi-Kernel; or a dictionary from layer name or shell
            wildcard to sparsity, whose first fitting entry counts, while layers that it does not name get ``sparsity``.
            An N:M threshold is by nature taken per group.
        begin: progress in [0, 1] at which the sparsity leaves zero.
        end: progress in [0, 1] from which it is complete.
        exempt: layer names that stay dense; shell wildcards allowed. None by default, but for the pattern ``channel``
            the last layer, whose outputs are the classes (an entry of its own in ``scope`` overrides that).

    Raises:
        UserError: a value is out of its range, or the sparsity or the scope contradicts the pattern.
    """

    sparsity: float | None = None
    pattern: str = "unstructured"
    scope: str | dict[str, float] = scopes.GLOBAL
    begin: float = 0.0
    end: float = 0.5
    exempt: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fixed = self.groups.sparsity
        if self.sparsity is None and fixed is None:
            raise UserError(
                f"a plan with the pattern {self.pattern} needs a sparsity, the fraction of zeros in [0, 1), "
                f"for instance 0.9"
            )
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UserError(f"sparsity is a fraction of zeros in [0, 1), got {self.sparsity}; 90 % is 0.9")
        if fixed is not None and self.sparsity is not None and abs(self.sparsity - fixed) > 1e-6:
            raise UserError(
                f"the pattern {self.pattern} has sparsity {fixed:g}, got {self.sparsity:g}; "
                f"leave the sparsity out or choose another pattern"
            )
        self._check_scope()
        if not 0 <= self.begin <= self.end <= 1:
            raise UserError(f"a plan needs 0 <= begin <= end <= 1, got begin {self.begin}, end {self.end}")

    def _check_scope(self) -> None:
        if isinstance(self.scope, dict):
            for name, value in self.scope.items():
                if not 0 <= value < 1:
                    raise UserError(f"the scope's sparsity of {name!r} must lie in [0, 1), got {value}")
        elif self.scope not in (scopes.GLOBAL, scopes.UNIFORM, scopes.ERK):
            raise UserError(
                f"unknown scope {self.scope!r}; choose one of global, uniform, erk, or a dictionary from layer name "
                f"to sparsity"
            )
        if self.groups.kind == "N:M" and self.scope != scopes.GLOBAL:
            raise UserError(
                f"the pattern {self.pattern} gives every layer the sparsity {self.groups.sparsity:g}, so the scope "
                f"{self.scope} means nothing; leave it out, or exempt the layers that shall stay dense"
            )

    @property
    def groups(self) -> Pattern:
        """The pattern, read."""
        return parse_pattern(self.pattern)

    @property
    def scope_kind(self) -> str:
        """``global``, ``uniform``, ``erk`` or ``per-layer``."""
        return self.scope if isinstance(self.scope, str) else scopes.PER_LAYER

    @property
    def target(self) -> float:
        """Fraction of zeros that the plan ends with, in the layers that take the pattern.

        With a dictionary for scope it is that of the layers which the dictionary does not name.
        """
        fixed = self.groups.sparsity
        if fixed is not None:
            return fixed
        assert self.sparsity is not None
        return self.sparsity

    def ramp(self, progress: float) -> float:
        """How far the sparsity has come, from 0 to 1, at this progress of the training in [0, 1]."""
        return cubic(progress, self.begin, self.end)

    def exempts(self, name: str) -> bool:
        """Whether the layer of this name stays dense because ``exempt`` says so."""
        return scopes.match(name, self.exempt) is not None
