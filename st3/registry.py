"""Finds a method by name: a module in ``st3/methods`` whose file name is its key."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from torch import nn

import st3.methods
from runtime.errors import UserError
from st3.plan import SparsityPlan
from st3.pruner import Pruner


class Method(Protocol):
    """What a method module defines.

    Attributes:
        PATTERNS: the kinds of pattern that it takes, of ``st3.patterns.KINDS``.
        SCOPES: the kinds of scope that it takes, of ``st3.scopes.KINDS``.
    """

    PATTERNS: tuple[str, ...]
    SCOPES: tuple[str, ...]

    def attach(self, model: nn.Module, plan: SparsityPlan) -> Pruner:
        """Put the method on a model in place."""


def method_names() -> list[str]:
    """Every method there is, as typed on the command line (``st3-sigma`` lives in ``st3_sigma.py``)."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(st3.methods.__path__))


def find_method(name: str) -> Method:
    """The method of that name; a ``UserError`` that lists the valid ones if there is none."""
    if name not in method_names():
        raise UserError(f"unknown method {name!r}; choose one of {', '.join(method_names())}")
    return cast("Method", importlib.import_module(f"st3.methods.{name.replace('-', '_')}"))


def check(plan: SparsityPlan, method: str) -> Method:
    """The method of that name, if it can follow the plan.

    Raises:
        UserError: there is no such method, or it does not define the plan's pattern or scope.
    """
    found = find_method(method)
    if plan.groups.kind not in found.PATTERNS:
        raise UserError(
            f"the method {method} does not define the pattern {plan.pattern}; it takes {', '.join(found.PATTERNS)}"
        )
    if plan.scope_kind not in found.SCOPES:
        raise UserError(
            f"the method {method} does not define the scope {plan.scope}; it takes {', '.join(found.SCOPES)}"
        )
    return found


def attach(model: nn.Module, plan: SparsityPlan, method: str = "st3") -> Pruner:
    """Make a model train sparsely, in place.

    The optimiser may be made before or after: the model keeps its Parameter objects.

    Args:
        model: any module; every ``nn.Conv2d``, ``nn.Linear`` and projection of ``nn.MultiheadAttention`` in it takes
            part unless the plan exempts it.
        plan: sparsity, pattern, scope and schedule.
        method: one of ``method_names()``.

    Raises:
        UserError: there is no such method, the method cannot follow the plan, or one is already attached.
    """
    return check(plan, method).attach(model, plan)
