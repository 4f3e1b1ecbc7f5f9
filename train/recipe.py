"""What a recipe is, and how one is found: a module in ``train/recipes`` whose file name is its key."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable

import msgspec
import torch
from torch import nn

import train.recipes
from runtime.errors import UserError
from train.network import Reference
from train.rates import Rate


class Recipe(msgspec.Struct, frozen=True):
    """Everything about a training but the method and its sparsity.

    Attributes:
        data: key of the data set, a module in ``train/data``.
        model: builds the network with fresh weights.
        epochs: passes over the training pictures; may be a fraction.
        batch_size: pictures per step; the rest of an epoch is dropped.
        learning_rate: peak rate of SGD.
        rate: factor on the peak rate by progress.
        momentum: of SGD.
        weight_decay: on conv and linear weights only, the latent ones of a sparse method.
        begin: progress at which the sparsity leaves zero.
        end: progress from which it is complete.
        nesterov: whether the momentum is Nesterov's.
        label_smoothing: of the cross-entropy.
        clip_norm: largest global norm of the gradient.
        precision: of the forward and backward pass on a GPU, one of ``train.precision.NAMES``; weights stay float32.
        channels_last: lay pictures and weights out as NHWC in memory.
        accumulate: parts that a batch is cut into, one after the other, where it does not fit into memory.
        ema: decay per step of the moving average of the weights that is evaluated and stored; 0 means none.
        temperature: of teacher's and student's logits (Hinton et al. 2015, arXiv 1503.02531).
        teacher_weight: share of the teacher in the loss, in [0, 1]; counts only where there is a teacher.
        finetune_epochs: passes over the data after the pruning is over and its mask frozen.
        finetune_rate: factor on the peak rate while fine-tuning.
        reference: what ``model`` builds, where it is a network of the user's and not the recipe's own.
    """

    data: str
    model: Callable[[], nn.Module]
    epochs: float
    batch_size: int
    learning_rate: float
    rate: Rate
    momentum: float
    weight_decay: float
    begin: float
    end: float
    nesterov: bool = False
    label_smoothing: float = 0.0
    clip_norm: float = 3.0
    precision: str = "fp32"
    channels_last: bool = True
    accumulate: int = 1
    ema: float = 0.0
    temperature: float = 4.0
    teacher_weight: float = 0.5
    finetune_epochs: float = 0.0
    finetune_rate: float = 0.01
    reference: Reference | None = None


def digest(recipe: Recipe) -> str:
    """Short hash of every number in a recipe; the rate counts by its values, the network by its weights' shapes."""
    other = ("model", "rate", "reference")
    values = [(name, value) for name, value in msgspec.structs.asdict(recipe).items() if name not in other]
    # a network of the user's may look at its weights as it makes them
    with torch.device("meta" if recipe.reference is None else "cpu"), torch.random.fork_rng(devices=[]):
        shapes = [(name, tuple(value.shape)) for name, value in recipe.model().state_dict().items()]
    rates = [round(recipe.rate(step / 64), 9) for step in range(65)]
    return hashlib.sha256(repr((values, shapes, rates)).encode()).hexdigest()[:16]


def recipe_names() -> list[str]:
    """Every recipe there is, as typed on the command line (``fashion-resnet8`` lives in ``fashion_resnet8.py``)."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(train.recipes.__path__))


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; a ``UserError`` that lists the valid ones if there is none."""
    if name not in recipe_names():
        raise UserError(f"unknown recipe {name!r}; choose one of {', '.join(recipe_names())}")
    found = importlib.import_module(f"train.recipes.{name.replace('-', '_')}").recipe()
    assert isinstance(found, Recipe), f"the recipe {name} returned {type(found)}"
    return found
