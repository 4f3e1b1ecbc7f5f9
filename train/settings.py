"""The settings that decide what a run computes; a resumed run must have the same."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.errors import UserError
from st3.plan import SparsityPlan
from train.network import Argument


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run.

    How it is executed (a captured graph, compiled, number of processes) is not here: a run may go on in another way,
    and then differs by rounding, and with another number of processes by the statistics of batch normalisations.

    Attributes:
        recipe: its name.
        recipe_digest: changes with every value of the recipe, so that an edited recipe is not taken for the old one.
        method: the sparse training method.
        plan: pattern, sparsity, schedule.
        epochs: as asked for, without fine-tuning.
        steps: optimiser steps, without fine-tuning.
        batch_size: pictures per step, all processes together.
        seed: of all randomness.
        precision: of the forward and backward pass.
        finetune_steps: optimiser steps after the bake.
        held_out: training pictures kept apart to select the best weights by.
        teacher: digest of the teacher's weights; empty where there is none.
        start: digest or name of the weights that the run began with; empty for random ones.
        changes: values of the recipe that options replaced.
        model: name of the network that replaced the recipe's; empty where none did.
        model_arguments: of what builds it.
    """

    recipe: str
    recipe_digest: str
    method: str
    plan: SparsityPlan
    epochs: float
    steps: int
    batch_size: int
    seed: int
    precision: str = "fp32"
    finetune_steps: int = 0
    held_out: int = 0
    teacher: str = ""
    start: str = ""
    changes: dict[str, float | str | bool] = {}
    model: str = ""
    model_arguments: dict[str, Argument] = {}

    @property
    def all_steps(self) -> int:
        """Optimiser steps with fine-tuning."""
        return self.steps + self.finetune_steps


def checkpoint_name(method: str, plan: SparsityPlan) -> str:
    """Folder name of a run's checkpoint: ``dense``, ``st3-unstructured-0.9``, ``st3-2to4-0.5``."""
    if method == "dense":
        return method
    kind = plan.scope if isinstance(plan.scope, str) else "per-layer"
    scope = "" if kind == "global" else f"-{kind}"
    return f"{method}-{plan.pattern.replace(':', 'to')}-{plan.target:g}{scope}"


def refuse_difference(wanted: Settings, found: Settings, where: str) -> None:
    """Raise a ``UserError`` that names each setting in which two runs differ."""
    left, right = _flat(wanted), _flat(found)
    if wanted.changes != found.changes:
        del left["recipe_digest"]  # the changes say the same in words
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
