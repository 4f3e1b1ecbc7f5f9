"""From the command line's options to a job: recipe with replaced values, plan, settings, execution."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from runtime.errors import UserError
from st3.plan import SparsityPlan
from train.dataset import Dataset
from train.distill import teacher_digest
from train.distributed import World
from train.graph_step import reason_against
from train.loop import Job, steps_of
from train.network import factory, parse_reference, refuse_misfit
from train.precision import resolve
from train.recipe import Recipe, digest
from train.settings import Settings
from train.start import start_digest, zoo_weights
from train.trainer import Execution

_TYPO = 100.0


class Options(msgspec.Struct, frozen=True):
    """What the user asked for about the loop; ``None`` is the recipe's value."""

    epochs: float | None = None
    max_steps: int | None = None
    seed: int = 0
    precision: str | None = None
    compile: bool = False
    graph: bool | None = None
    validate: int = 0
    init_from: str = ""
    teacher: Path | None = None
    save_every: int | None = None
    changes: dict[str, float | str | bool] = {}


def make_plan(
    recipe: Recipe,
    method: str,
    sparsity: float | None,
    pattern: str,
    scope: str,
    exempt: tuple[str, ...],
    layers: tuple[str, ...],
) -> SparsityPlan:
    """The plan with the recipe's schedule; ``layers`` are ``NAME=VALUE`` pairs.

    Raises:
        UserError: a value is out of its range, a pair is none, or a scope was given with pairs.
    """
    if method == "dense" and sparsity is None and pattern == "unstructured":
        sparsity = 0.0
    if layers and scope != "global":
        raise UserError(f"--scope {scope} and --layer-sparsity contradict each other; leave one out")
    return SparsityPlan(
        sparsity=sparsity,
        pattern=pattern,
        scope=dict(_pair(text) for text in layers) if layers else scope,
        begin=recipe.begin,
        end=recipe.end,
        exempt=exempt,
    )


def _pair(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        if not name:
            raise ValueError
        return name, float(value)
    except ValueError:
        raise UserError(f"--layer-sparsity {text}: give NAME=VALUE, for instance stage1.0.conv1=0.8") from None


def change(recipe: Recipe, changes: dict[str, float | str | bool]) -> Recipe:
    """The recipe with other values.

    Raises:
        UserError: a value cannot be meant.
    """
    rate = changes.get("learning_rate")
    if rate is not None and not recipe.learning_rate / _TYPO < float(rate) < recipe.learning_rate * _TYPO:
        raise UserError(
            f"--learning-rate {rate:g} is {float(rate) / recipe.learning_rate:.3g} times the recipe's "
            f"{recipe.learning_rate:g}; give one within a factor of {_TYPO:g}"
        )
    return msgspec.structs.replace(recipe, **changes)


def refer(
    recipe: Recipe, model: str | None, arguments: tuple[str, ...], weights: str | None, init_from: str
) -> tuple[Recipe, str]:
    """The recipe with the network that ``--model`` names, and what ``--init-from`` is with ``--weights``.

    Raises:
        UserError: options contradict each other, or there are no such weights.
    """
    if model is not None:
        recipe = msgspec.structs.replace(recipe, reference=parse_reference(model, arguments))
    elif arguments and recipe.reference is not None:
        recipe = msgspec.structs.replace(recipe, reference=parse_reference(recipe.reference.name, arguments))
    elif arguments:
        raise UserError("--model-arg goes with --model; the recipe's own network has no arguments")
    if weights is None:
        return recipe, init_from
    if init_from:
        raise UserError(f"--weights {weights} and --init-from {init_from} contradict each other; leave one out")
    if recipe.reference is None:
        raise UserError(f"--weights {weights} goes with --model, which names the network; or give --init-from")
    return recipe, zoo_weights(recipe.reference, weights)


def with_network(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe whose ``model`` builds the network that it refers to, for the classes of the data.

    Raises:
        UserError: there is no such network, or it fits neither the pictures nor the classes.
    """
    if recipe.reference is None:
        return recipe
    classes = len(dataset.classes)
    make = factory(recipe.reference, classes)
    refuse_misfit(make, recipe.reference.name, dataset.preprocessing.shape, classes)
    return msgspec.structs.replace(recipe, model=make)


def make_job(
    name: str,
    recipe: Recipe,
    method: str,
    plan: SparsityPlan,
    options: Options,
    dataset: Dataset,
    device: torch.device,
    world: World,
) -> tuple[Job, str]:
    """All that a run needs, and a remark for the user about how it is executed, which may be empty.

    Raises:
        UserError: an option does not fit the recipe, the data or the machine.
    """
    recipe = change(with_network(recipe, dataset), options.changes)
    if recipe.batch_size % (world.size * recipe.accumulate):
        raise UserError(
            f"a batch of {recipe.batch_size} cannot be shared by {world.size} processes in {recipe.accumulate} parts "
            f"each; choose numbers that divide it"
        )
    if options.validate >= dataset.size:
        raise UserError(f"--validate {options.validate}: {dataset.name} has {dataset.size} training pictures in all")
    pictures = dataset.size - options.validate
    epochs = recipe.epochs if options.epochs is None else options.epochs
    finetune = round(recipe.finetune_epochs * (pictures // recipe.batch_size))
    settings = Settings(
        recipe=name,
        recipe_digest=digest(recipe),
        method=method,
        plan=plan,
        epochs=epochs,
        steps=steps_of(recipe.batch_size, pictures, epochs, options.max_steps),
        batch_size=recipe.batch_size,
        seed=options.seed,
        precision=resolve(options.precision, recipe.precision, device),
        finetune_steps=finetune if options.max_steps is None else min(finetune, options.max_steps),
        held_out=options.validate,
        teacher=teacher_digest(options.teacher, dataset.preprocessing, dataset.classes) if options.teacher else "",
        start=start_digest(options.init_from) if options.init_from else "",
        changes=options.changes,
        model=recipe.reference.name if recipe.reference else "",
        model_arguments=recipe.reference.arguments if recipe.reference else {},
    )
    execution, remark = _execution(options, dataset, device, world)
    return Job(recipe, settings, dataset, device, options.save_every, execution, world), remark


def _execution(options: Options, dataset: Dataset, device: torch.device, world: World) -> tuple[Execution, str]:
    """How the steps are run, and why not as a CUDA graph where one was wanted."""
    against = reason_against(device, world.size, dataset.on_device)
    execution = Execution(
        graph=options.graph is not False and not against,
        compile=options.compile,
        start=options.init_from,
        teacher=options.teacher,
    )
    wanted = options.graph if options.graph is not None else device.type == "cuda"
    return execution, f"no CUDA graph: {against}" if wanted and against else ""
