"""The settings that decide what a run computes; a resumed run must have the same."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.errors import UserError
from st3.plan import SparsityPlan


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run. ``steps`` is the number of optimiser steps in all, ``epochs`` what was asked for.

    ``recipe_digest`` changes with every value of the recipe, so that an edited recipe is not taken for the old one.
    """

    recipe: str
    recipe_digest: str
    method: str
    plan: SparsityPlan
    epochs: float
    steps: int
    batch_size: int
    seed: int


def checkpoint_name(method: str, plan: SparsityPlan) -> str:
    """Folder name of a run's checkpoint: ``dense``, ``st3-unstructured-0.9``, ``st3-2to4-0.5``."""
    if method == "dense":
        return method
    return f"{method}-{plan.pattern.replace(':', 'to')}-{plan.target:g}"


def refuse_difference(wanted: Settings, found: Settings, where: str) -> None:
    """Raise a ``UserError`` that names each setting in which two runs differ."""
    left, right = _flat(wanted), _flat(found)
    different = [f"{key} {right[key]!r} (asked for {left[key]!r})" for key in left if left[key] != right[key]]
    if different:
        raise UserError(
            f"cannot resume: the run in {where} has {', '.join(different)}; "
            f"use the same settings, another --out, or leave --resume out to start afresh"
        )


def _flat(settings: Settings) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(settings)
    plan: dict[str, Any] = data.pop("plan")
    return {**data, **plan, "sparsity": settings.plan.target}
